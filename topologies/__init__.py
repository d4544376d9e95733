"""Topologies of the lab, as Mininet topologies.

`AB` (near), `CD` (far), `ABCD` (all, with the whole edge network); `SameNat` (one home), `Carrier` (homes below a
carrier's NAT), `Firewalls` (no translation); `Home` (one host, to look at its NAT).
"""

from topologies.ab import AB
from topologies.abcd import ABCD
from topologies.carrier import Carrier
from topologies.cd import CD
from topologies.firewalls import Firewalls
from topologies.home import Home
from topologies.same_nat import SameNat

TOPOLOGIES = {"ab": AB, "cd": CD, "abcd": ABCD, "same_nat": SameNat, "carrier": Carrier, "firewalls": Firewalls}
"""Name on the command line -> class, of those in which pairs of hosts meet."""

__all__ = ["AB", "ABCD", "CD", "TOPOLOGIES", "Carrier", "Firewalls", "Home", "SameNat"]
