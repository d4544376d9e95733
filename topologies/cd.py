"""C and D live far apart: two regions joined by a long link, an edge in each, so that each finds an edge of its own."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class CD(Internet):
    """Two homes in two regions. `delay` is one way between the two NATs, a tenth of it on each access link."""

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
        """Parameters: presets of the NATs, the answer to unsolicited SYNs, the port mapping, the options of the access
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
