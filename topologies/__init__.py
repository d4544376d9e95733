"""Topologies of the lab, as Mininet topologies.

`AB` (near), `CD` (far), `ABCD` (all, with three edges), `SameNat` (one home), `Carrier` (homes behind a carrier's NAT),
`Firewalls` (no translation), `DualStack` (IPv6 in addition to NATs), `Home` (one host, to examine its NAT),
`UnderAttack` (with an attacker), `Lookalikes` (private addresses that two hosts share).
"""

from punchlab.lab.kernel import packages

packages.require()

from punchlab.topologies.ab import AB
from punchlab.topologies.abcd import ABCD
from punchlab.topologies.carrier import Carrier
from punchlab.topologies.cd import CD
from punchlab.topologies.dual_stack import DualStack
from punchlab.topologies.firewalls import Firewalls
from punchlab.topologies.home import Home
from punchlab.topologies.lookalikes import Lookalikes
from punchlab.topologies.same_nat import SameNat
from punchlab.topologies.under_attack import UnderAttack

TOPOLOGIES = {
    "ab": AB,
    "cd": CD,
    "abcd": ABCD,
    "same_nat": SameNat,
    "carrier": Carrier,
    "firewalls": Firewalls,
    "dual_stack": DualStack,
}
"""Name on the command line -> class, for topologies with pairs of hosts."""

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
    "UnderAttack",
]
