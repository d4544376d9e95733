"""A and B are close to each other: one region with one edge."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class AB(Internet):
    """Two homes in one region. `delay` is the one-way delay between the NATs, half of it on each access link."""

    pairs = (("a", "b"),)

    def build(
        self,
        nat_a: str = "port_restricted_cone",
        nat_b: str = "port_restricted_cone",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        delay: str = "10ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: NAT presets, the answer to unsolicited SYNs, the port mapping, and options of the access
        links.
        """
        self.begin()
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        access = {"delay": share(delay, 0.5), "jitter": jitter, "loss": loss, "bw": bw}
        self.home(west, ["a"], nat_a, unsolicited, port_mapping, **access)
        self.home(west, ["b"], nat_b, unsolicited, port_mapping, **access)
        self.finish()
