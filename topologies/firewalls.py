"""A and B have public IPv4 and IPv6 addresses, each behind a stateful firewall without translation."""

from __future__ import annotations

from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet, share


class Firewalls(Internet):
    """Two homes in one region. `delay` is the one-way delay between the firewalls, half of it on each access link."""

    pairs = (("a", "b"),)
    default_nat = "firewall"
    default_nats = "firewalls"

    def build(
        self,
        nat_a: str | NatBehavior = "firewall",
        nat_b: str | NatBehavior = "firewall",
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        delay: str = "10ms",
        jitter: str | None = None,
        loss: float | None = None,
        bw: float | None = None,
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: firewall presets, the answer to unsolicited SYNs, and options of the access links.

        A preset that translates has only IPv4 inside. Only such a preset can have a port mapping.
        """
        self.begin(ipv6=True)
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        access = {"delay": share(delay, 0.5), "jitter": jitter, "loss": loss, "bw": bw}
        self.home(west, ["a"], nat_a, unsolicited, port_mapping, **access)
        self.home(west, ["b"], nat_b, unsolicited, port_mapping, **access)
        self.finish()
