"""C and D are far apart: two regions connected by a long link, with an edge each."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class CD(Internet):
    """Two homes in two regions. `delay` is the one-way delay between the NATs, a tenth of it on each access link."""

    pairs = (("c", "d"),)

    def build(
        self,
        nat_c: str = "port_restricted_cone",
        nat_d: str = "port_restricted_cone",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        delay: str = "50ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: NAT presets, the answer to unsolicited SYNs, the port mapping, and options of the access
        links.
        """
        self.begin()
        access = {"delay": share(delay, 0.1), "jitter": jitter, "loss": loss, "bw": bw}
        for name, host, nat in (("west", "c", nat_c), ("east", "d", nat_d)):
            region = self.region(name)
            self.edge(region, delay=edge_delay, alternate=True)
            self.home(region, [host], nat, unsolicited, port_mapping, **access)
        self.long_link("west", "east", delay=share(delay, 0.8))
        self.finish()
