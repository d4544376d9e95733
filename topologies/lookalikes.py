"""A and B are customers of one carrier; in the home of A, C has the private address that B has in his own."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class Lookalikes(Internet):
    """Two homes of two hosts each below one carrier's NAT, which hairpins; `a` and `d` have one private address, `c`
    and `b` another. `delay` is one way between the NATs of the homes.
    """

    pairs = (("a", "b"),)

    def build(self, nat: str = "port_restricted_cone", cgn: str = "cgn_rfc6888", delay: str = "10ms") -> None:
        """Parameters: presets of the homes' NATs and of the carrier's, the delay of the access links."""
        self.begin()
        west = self.region("west")
        self.edge(west, alternate=True)
        isp = self.carrier(west, cgn)
        self.home(isp, ["a", "c"], nat, "preset", delay=share(delay, 0.5))
        self.home(isp, ["d", "b"], nat, "preset", delay=share(delay, 0.5))
        self.finish()
