"""A topology for tests: homes behind a carrier's NAT, and public servers. No delays."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet


class Nat444(Internet):
    """`a` and `a2` behind `nat_a`, `b` behind `nat_b`, both behind `cgn1`; `server` and `stranger` public."""

    pairs = (("a", "b"),)

    def build(self, home: NatBehavior, cgn: NatBehavior) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms")
        isp = self.carrier(west, cgn)
        self.home(isp, ["a", "a2"], home, "preset")
        self.home(isp, ["b"], home, "preset")
        self.home(west, ["server"], "none", "drop")
        self.home(west, ["stranger"], "none", "drop")
        self.finish()
