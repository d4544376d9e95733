"""Topologies of the lab, as Mininet topologies: `AB` (near), `CD` (far), `ABCD` (all, with the whole edge network)."""

from topologies.ab import AB
from topologies.abcd import ABCD
from topologies.cd import CD

TOPOLOGIES = {"ab": AB, "cd": CD, "abcd": ABCD}
"""Name on the command line -> class."""

__all__ = ["AB", "ABCD", "CD", "TOPOLOGIES"]
