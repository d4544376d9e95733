"""Topologies of the lab, as Mininet topologies.

`AB` (near), `CD` (far), `ABCD` (all, with the whole edge network); `Home` (one host, to look at its NAT).
"""

from topologies.ab import AB
from topologies.abcd import ABCD
from topologies.cd import CD
from topologies.home import Home

TOPOLOGIES = {"ab": AB, "cd": CD, "abcd": ABCD}
"""Name on the command line -> class, of those in which pairs of hosts meet."""

__all__ = ["AB", "ABCD", "CD", "TOPOLOGIES", "Home"]
