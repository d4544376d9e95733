"""A topology for tests: several hosts behind one NAT, and public servers."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet


class Homes(Internet):
    """`a` and `a2` behind `nat_a`; `server` and `stranger` public. No delays, so that tests are fast."""

    pairs = (("a", "server"),)

    def build(
        self, nat: str | NatBehavior = "full_cone", unsolicited: str = "preset", port_mapping: str = "preset"
    ) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms")
        self.home(west, ["a", "a2"], nat, unsolicited, port_mapping)
        self.home(west, ["server"], "none", "drop")
        self.home(west, ["stranger"], "none", "drop")
        self.finish()
