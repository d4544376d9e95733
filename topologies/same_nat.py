"""A and B are in one home: two hosts behind one NAT, which connect on their LAN or by hairpinning."""

from __future__ import annotations

from punchlab.lab.errors import InputError
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.internet import Internet


class SameNat(Internet):
    """Two hosts behind `nat_a`, and one edge outside. No delays, because no link is between them."""

    pairs = (("a", "b"),)
    shared_nat = True
    default_nats = "full_cone,restricted_cone,port_restricted_cone,symmetric"

    def build(
        self,
        nat_a: str | NatBehavior = "port_restricted_cone",
        nat_b: str | NatBehavior | None = None,
        unsolicited: str = "preset",
        port_mapping: str = "preset",
        edge_delay: str = "1ms",
    ) -> None:
        """Parameters: the preset of the NAT (`nat_b`, if given, must be the same), its answers to SYNs and mapping
        requests.
        """
        if nat_b not in (None, nat_a):
            raise InputError("nat_b", nat_b, f"the value of nat_a, {nat_a}, because both hosts are behind one NAT")
        self.begin()
        west = self.region("west")
        self.edge(west, delay=edge_delay, alternate=True)
        self.home(west, ["a", "b"], nat_a, unsolicited, port_mapping)
        self.finish()
