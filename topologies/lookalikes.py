"""A and B are customers of one carrier. In A's home, C has the same private address as B in the other home."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class Lookalikes(Internet):
    """Two homes with two hosts each behind one carrier's NAT, which hairpins. `a` and `d` share a private address, and
    so do `c` and `b`. `delay` is the one-way delay between the home NATs.
    """

    pairs = (("a", "b"),)

    def build(self, nat: str = "port_restricted_cone", cgn: str = "cgn_rfc6888", delay: str = "10ms") -> None:
        """Parameters: presets of the home NATs and of the carrier's NAT, and the delay of the access links."""
        self.begin()
        west = self.region("west")
        self.edge(west, alternate=True)
        isp = self.carrier(west, cgn)
        self.home(isp, ["a", "c"], nat, "preset", delay=share(delay, 0.5))
        self.home(isp, ["d", "b"], nat, "preset", delay=share(delay, 0.5))
        self.finish()
