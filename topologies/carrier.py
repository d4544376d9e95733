"""A and B are customers of one carrier, whose NAT is above those of their homes (NAT444); C's home is beside it."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet, share


class Carrier(Internet):
    """Two homes below one carrier's NAT, and one beside it. `delay` is one way between the NATs of A and B.

    They meet at the carrier's NAT, if it hairpins; with C, one host is behind two NATs. Each access link has half of
    the delay, and so has the carrier's uplink. (Without that, SYNs sent at once by A and C would come to the carrier's
    NAT at the same instant, and which is first would be chance.)
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
        """Parameters: presets of the NATs, all their answers to unsolicited SYNs, the options of the access links.

        `port_mapping` is of the homes' NATs: a carrier's customers do not ask it for mappings.
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
