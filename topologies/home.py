"""One host behind one NAT, and an edge with two addresses, to examine the NAT."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet


class Home(Internet):
    """`a` behind `nat_a`, or public. No delays."""

    def build(
        self,
        nat: str | NatBehavior = "port_restricted_cone",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
    ) -> None:
        """Parameters: the NAT (a preset name or a behavior), its answer to unsolicited SYNs, and its port mapping."""
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms", alternate=True)
        self.home(west, ["a"], nat, unsolicited, port_mapping)
        self.finish()
