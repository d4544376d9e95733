"""Many homes at one router, to measure how the lab scales."""

from __future__ import annotations

from punchlab.topologies.internet import Internet


class ManyHomes(Internet):
    """Hosts `h0`, `h1`, …, each behind its own NAT, and one edge. No delays."""

    def build(self, homes: int, nat: str = "port_restricted_cone", unsolicited: str = "preset") -> None:
        """Parameters: the number of homes, the preset of all NATs, and its answer to unsolicited SYNs."""
        self.begin()
        middle = self.region("middle")
        self.edge(middle, delay="0ms")
        for number in range(homes):
            self.home(middle, [f"h{number}"], nat, unsolicited)
        self.finish()
