"""All four hosts and three edges: A and B in one region, C and D in one region each."""

from __future__ import annotations

from itertools import combinations

from punchlab.topologies.internet import Internet


class ABCD(Internet):
    """Three regions, connected by long links in a triangle, with an edge each. All pairs of hosts are possible."""

    pairs = tuple(combinations("abcd", 2))

    def build(
        self,
        nat_a: str = "port_restricted_cone",
        nat_b: str = "port_restricted_cone",
        nat_c: str = "port_restricted_cone",
        nat_d: str = "port_restricted_cone",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        access_delay: str = "5ms",
        long_delay: str = "40ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: NAT presets, the answer to unsolicited SYNs, the port mapping, and options of the access
        links.
        """
        self.begin()
        access = {"delay": access_delay, "jitter": jitter, "loss": loss, "bw": bw}
        homes = {"west": {"a": nat_a, "b": nat_b}, "middle": {"c": nat_c}, "east": {"d": nat_d}}
        for name, hosts in homes.items():
            region = self.region(name)
            self.edge(region, delay=edge_delay, alternate=True)
            for host, nat in hosts.items():
                self.home(region, [host], nat, unsolicited, port_mapping, **access)
        for one, other in combinations(homes, 2):
            self.long_link(one, other, delay=long_delay)
        self.finish()
