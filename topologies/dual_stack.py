"""A and B are behind NATs over IPv4, and have public IPv6 addresses behind the firewalls of the same home routers."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class DualStack(Internet):
    """Two homes in one region. `delay` is one way between the two routers, half of it on each access link.

    The NATs are any presets; where one does not translate, its firewall is that of both families.
    """

    pairs = (("a", "b"),)
    edges_speak_ipv6 = True

    def build(
        self,
        nat_a: str = "symmetric",
        nat_b: str = "symmetric",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        delay: str = "10ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: presets of the NATs, the answer to unsolicited IPv4 SYNs, the options of the access links."""
        self.begin(two_stacks=True)
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        access = {"delay": share(delay, 0.5), "jitter": jitter, "loss": loss, "bw": bw}
        self.home(west, ["a"], nat_a, unsolicited, port_mapping, **access)
        self.home(west, ["b"], nat_b, unsolicited, port_mapping, **access)
        self.finish()
