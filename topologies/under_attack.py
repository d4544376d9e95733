"""A and B live near each other, and somewhere near lives M, who has a whole network of addresses and means harm."""

from __future__ import annotations

from punchlab.topologies.internet import Internet, share


class UnderAttack(Internet):
    """Two homes, one edge, and the public host `m`; `botnet` is routed to it. `delay` is one way between the two NATs.

    What is for an address of `botnet` comes to `m`, which has to take it: `ip route add local BOTNET dev lo`.
    """

    pairs = (("a", "b"),)

    def build(
        self, nat_a: str = "port_restricted_cone", nat_b: str = "port_restricted_cone", delay: str = "10ms"
    ) -> None:
        """Parameters: presets of the NATs, the delay of the access links. Nothing delays `m`."""
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
