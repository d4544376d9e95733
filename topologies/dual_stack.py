"""A and B are behind NATs for IPv4, and have public IPv6 addresses behind the firewalls of the same routers."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class DualStack(Internet):
    """Two homes in one region. `delay` is the one-way delay between the routers, half of it on each access link.

    The NATs can be any presets. A firewall preset applies to both IPv4 and IPv6.
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
        """Parameters: NAT presets, the answer to unsolicited IPv4 SYNs, and options of the access links."""
        self.begin(two_stacks=True)
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        access = {"delay": share(delay, 0.5), "jitter": jitter, "loss": loss, "bw": bw}
        self.home(west, ["a"], nat_a, unsolicited, port_mapping, **access)
        self.home(west, ["b"], nat_b, unsolicited, port_mapping, **access)
        self.finish()
