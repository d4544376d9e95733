"""A and B are customers of one carrier and behind its NAT (NAT444); C's home is not."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet, share


class Carrier(Internet):
    """Two homes behind one carrier's NAT, and one next to it. `delay` is the one-way delay between the NATs of A and B.

    A and B connect through the carrier's NAT if it supports hairpinning; between A or B and C, one host is behind two
    NATs. Each access link has half of the delay, and so does the carrier's uplink. (Without the latter, SYNs that A and
    C send at the same time would arrive at the carrier's NAT at the same time, and their order would be random.)
    """

    pairs = (("a", "b"), ("a", "c"), ("b", "c"))

    def build(
        self,
        nat_a: str | NatBehavior = "port_restricted_cone",
        nat_b: str | NatBehavior = "port_restricted_cone",
        nat_c: str | NatBehavior = "port_restricted_cone",
        cgn: str | NatBehavior = "cgn_rfc6888",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        delay: str = "10ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: NAT presets, the answer of all NATs to unsolicited SYNs, and options of the access links.

        `port_mapping` applies to the home NATs: customers do not request mappings from the carrier.
        """
        self.begin()
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        isp = self.carrier(west, cgn, unsolicited, delay=share(delay, 0.5))
        access = {"delay": share(delay, 0.5), "jitter": jitter, "loss": loss, "bw": bw}
        self.home(isp, ["a"], nat_a, unsolicited, port_mapping, **access)
        self.home(isp, ["b"], nat_b, unsolicited, port_mapping, **access)
        self.home(west, ["c"], nat_c, unsolicited, port_mapping, **access)
        self.finish()
