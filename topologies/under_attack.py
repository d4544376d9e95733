"""A and B are close to each other, and M is an attacker with a whole network of addresses."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class UnderAttack(Internet):
    """Two homes, one edge, and the public host `m`, to which `botnet` is routed. `delay` is the one-way delay between
    the NATs.

    `m` receives packets to addresses of `botnet` and must accept them: `ip route add local BOTNET dev lo`.
    """

    pairs = (("a", "b"),)

    def build(
        self, nat_a: str = "port_restricted_cone", nat_b: str = "port_restricted_cone", delay: str = "10ms"
    ) -> None:
        """Parameters: NAT presets and the delay of the access links. `m` has no delay."""
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms", alternate=True)
        access = {"delay": share(delay, 0.5)}
        self.home(west, ["a"], nat_a, "preset", **access)
        self.home(west, ["b"], nat_b, "preset", **access)
        self.home(west, ["m"], "none", "preset")
        *_others, network = self._regions[west].network.subnets(new_prefix=16)
        self.botnet = str(network)
        self._routes[self._regions[west].router].append((self.botnet, self.nodeInfo("m")["ip"].partition("/")[0]))
        self.finish()
