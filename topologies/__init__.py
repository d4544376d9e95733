"""Topologies of the lab, as Mininet topologies.

`AB` (near), `CD` (far), `ABCD` (all, with the whole edge network); `SameNat` (one home), `Carrier` (homes below a
carrier's NAT), `Firewalls` (no translation), `DualStack` (IPv6 beside NATs); `Home` (one host, to look at its NAT);
`Siege` (with attackers); `Lookalikes` (private addresses that are another host's as well).
"""

from topologies.ab import AB
from topologies.abcd import ABCD
from topologies.carrier import Carrier
from topologies.cd import CD
from topologies.dual_stack import DualStack
from topologies.firewalls import Firewalls
from topologies.home import Home
from topologies.lookalikes import Lookalikes
from topologies.same_nat import SameNat
from topologies.siege import Siege

TOPOLOGIES = {
    "ab": AB,
    "cd": CD,
    "abcd": ABCD,
    "same_nat": SameNat,
    "carrier": Carrier,
    "firewalls": Firewalls,
    "dual_stack": DualStack,
}
"""Name on the command line -> class, of those in which pairs of hosts meet."""

__all__ = [
    "AB",
    "ABCD",
    "CD",
    "TOPOLOGIES",
    "Carrier",
    "DualStack",
    "Firewalls",
    "Home",
    "Lookalikes",
    "SameNat",
    "Siege",
]
