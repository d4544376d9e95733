"""A NAT of a running lab, and its events.

An event is in force when its method returns. During the change, some tens of milliseconds, the NAT drops all packets,
so no packet is handled by a mixture of the old and the new state.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import time
from collections.abc import Callable, Mapping

from punchlab.lab.build import start_helpers
from punchlab.lab.errors import InputError, LabError
from punchlab.lab.events.background import Background, schedule
from punchlab.lab.events.link import RunningLink
from punchlab.lab.graph import Graph, Interface
from punchlab.lab.inputs import numbers
from punchlab.lab.kernel import running, sysctl
from punchlab.lab.nat import presets
from punchlab.lab.nat.rules import NatRules, rules
from punchlab.lab.nat.site import external_addresses
from punchlab.lab.process.node import Node
from punchlab.punch.nat.behavior import NatBehavior

LONGEST_DOWNTIME_S = 3600.0

_CLOSE = """table inet punchlab_closed {
  chain everything { type filter hook prerouting priority -500; policy drop; }
}
"""
_OPEN = "delete table inet punchlab_closed\n"


class RunningNat:
    """A NAT. `link` is its access link, on its outside."""

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], node: Node, link: RunningLink) -> None:
        self._graph, self._nodes, self._node = graph, nodes, node
        self._background: Background | None = None
        self.link = link

    def __repr__(self) -> str:
        return f"<NAT {self.name} {self.address}>"

    @property
    def name(self) -> str:
        """The name of the node."""
        return self._node.name

    @property
    def behavior(self) -> NatBehavior:
        """The current behavior."""
        behavior = self._node.graph.behavior
        if behavior is None:
            raise LabError(f"{self.name}: the NAT has no behavior")
        return behavior

    @property
    def address(self) -> str:
        """The current (first) external address."""
        return self._node.address

    def reboot(self, downtime_s: float = 0.0) -> None:
        """Discard all state: connections, mappings, the position in a port sequence. Then apply the rules again.

        Before that, the NAT silently drops all packets for `downtime_s` seconds.
        """
        numbers.seconds("downtime", downtime_s, least=0, most=LONGEST_DOWNTIME_S)

        def change() -> str:
            time.sleep(downtime_s)
            running.flush_connections(self._node.namespace, self._node.name)
            return _replaced(self._rules(), self._rules())  # the iptables part has no state

        self._while_closed(change)

    def flush(self) -> None:
        """Delete all mappings and connections, but keep the position in a port sequence."""

        def change() -> str:
            running.flush_connections(self._node.namespace, self._node.name)
            return _flushed(self._rules().nft)

        self._while_closed(change, restart=False)

    def change_address(self, address: str | None = None) -> str:
        """Replace the external address, discard all state, and return the new address.

        `address` must be a free address of the same network; default: the next one. The addresses of a pool follow it.
        Routers and hosts on the access link use the new address at once. Raises `InputError` for an invalid address.
        """
        outside = self._outside
        old, before = self.address, self._rules()
        new = self._free_address(address)

        def change() -> str:
            self._set_addresses(before.addresses, external_addresses(new, self.behavior))
            outside.address = f"{new}/{self._network.prefixlen}"
            self._update_neighbors(old, new)
            running.flush_connections(self._node.namespace, self._node.name)
            return self._load(before, self._rules())

        self._while_closed(change)
        return new

    def link_down(self) -> None:
        """Set the access link down. Packets are lost in both directions; the NAT keeps its state."""
        self.link.down()

    def link_up(self) -> None:
        """Set the access link up again."""
        self.link.up()

    def behave(self, nat: str | NatBehavior) -> None:
        """Change the behavior for all new mappings. `nat` is a preset name or a `NatBehavior`.

        Tracked connections keep their endpoints; `flush` ends them. Raises `InputError` for a public host, or if only
        one of the two behaviors translates.
        """
        behavior = presets.behavior(nat)
        if behavior is None or behavior.translates is not self.behavior.translates:
            kind = "translates" if self.behavior.translates else "does not translate"
            raise InputError("behavior", nat, f"a behavior that {kind}, like that of {self.name}")
        before = self._rules()

        def change() -> str:
            self._set_addresses(before.addresses, external_addresses(self.address, behavior))
            self._node.graph.behavior = behavior
            return self._load(before, self._rules())

        self._while_closed(change)

    def background(self, rate: float, *, seed: int | str = 0, udp: float = 0.0, silent: float = 0.0) -> Background:
        """Let other hosts behind the NAT open `rate` connections per second, with Poisson arrivals.

        This replaces earlier background traffic. The same `seed` gives the same arrivals. `udp` is the fraction of
        connections over UDP, `silent` the fraction to a server that never answers. Raises `InputError`.
        """
        arrivals = schedule(rate, seed, udp=udp, silent=silent)
        self.close()
        self._background = Background(self._graph, self._nodes, self._node, arrivals)
        return self._background

    @property
    def background_address(self) -> str | None:
        """The public address to which background traffic is sent, or None without such traffic."""
        return None if self._background is None else self._background.address

    def close(self) -> None:
        """Stop the background traffic. Idempotent."""
        if self._background is not None:
            self._background.stop()
            self._background = None

    @property
    def _outside(self) -> Interface:
        return self._node.graph.interfaces[0]

    @property
    def _inside(self) -> Interface:
        return self._node.graph.interfaces[1]

    @property
    def _network(self) -> ipaddress.IPv4Network:
        """The network of the access link."""
        return ipaddress.IPv4Interface(self._outside.address or "").network

    def _rules(self) -> NatRules:
        return rules(
            self.behavior,
            inside=self._inside.name,
            outside=self._outside.name,
            address=self.address,
            ipv6=self._inside.address6 is not None,
        )

    def _while_closed(self, change: Callable[[], str], *, restart: bool = True) -> None:
        """Make a change while all packets are dropped, and load the nft statements that it returns.

        `restart` also restarts the helper processes, which discards the mappings that hosts requested.
        """
        running.load()
        self._nft(_CLOSE)
        try:
            self._nft(change())
            if restart:
                self._node.end_helpers()
                for helper in start_helpers(self._node, self._rules()):
                    helper.wait()
        finally:
            self._nft(_OPEN)

    def _load(self, before: NatRules, after: NatRules) -> str:
        """Load the iptables rules and the sysctls. Return the nft statements, which the caller loads."""
        self._node.run(["iptables-restore"], stdin=after.iptables)
        if after.ip6tables:
            self._node.run(["ip6tables-restore"], stdin=after.ip6tables)
        with self._node.entered():
            sysctl.write(after.sysctls)
        return _replaced(before, after)

    def _nft(self, statements: str) -> None:
        self._node.run(["nft", "-f", "-"], stdin=statements)

    def _free_address(self, wanted: str | None) -> str:
        network = self._network
        taken = {there.address.partition("/")[0] for _here, there in self._graph.neighbors() if there.address}
        taken.update(external_addresses(self.address, self.behavior))

        def free(first: str) -> bool:
            pool = external_addresses(first, self.behavior)
            hosts = range(int(network.network_address) + 1, int(network.broadcast_address))
            return not taken.intersection(pool) and all(int(ipaddress.IPv4Address(each)) in hosts for each in pool)

        if wanted is None:
            start = int(ipaddress.IPv4Address(self.address)) - int(network.network_address)
            numbers = (*range(start + 1, network.num_addresses), *range(1, start))
            found = next((str(network[number]) for number in numbers if free(str(network[number]))), None)
            if found is None:
                raise InputError("address", wanted, f"a network with a free address; {network} has none")
            return found
        with contextlib.suppress(ValueError):
            if free(wanted):
                return wanted
        raise InputError("address", wanted, f"a free address in {network}")

    def _set_addresses(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Replace the external addresses. The first one has the prefix length of the network, the others 32."""
        index = self._outside.index
        # Without this, the kernel deletes the routes through the network together with the old address.
        with self._node.entered():
            sysctl.write({f"net/ipv4/conf/{self._outside.name}/promote_secondaries": "1"})
        old, new = (
            [f"{address}/{32 if number else self._network.prefixlen}" for number, address in enumerate(addresses)]
            for addresses in (before, after)
        )
        with running.changes(self._node.namespace) as changes:
            for address in new:
                if address not in old:
                    changes.add_address(index, address)
            for address in old:
                if address not in new:
                    changes.delete_address(index, address)

    def _update_neighbors(self, old: str, new: str) -> None:
        """Replace the old address by the new one on all nodes of the access link, in neighbor tables and routes."""
        outside = self._outside
        for here, there in self._graph.neighbors():
            if there is not outside:
                continue
            node = self._nodes[here.node]
            routes = [(destination, new if gateway == old else gateway) for destination, gateway in node.graph.routes]
            with running.changes(node.namespace) as changes:
                changes.delete_neighbor(here.index, old)
                changes.replace_neighbor(here.index, new, outside.mac)
                for route, former in zip(routes, node.graph.routes, strict=True):
                    if route != former:
                        changes.replace_route(*route)
            node.graph.routes = routes


def _replaced(before: NatRules, after: NatRules) -> str:
    """Return nft statements that replace the tables of `before` by those of `after`, with empty maps and sets."""
    return "".join(f"delete table {table}\n" for table in before.tables) + after.nft


def _flushed(nft: str) -> str:
    """Return nft statements that flush the maps and sets that packets fill."""
    statements, table = [], ""
    for line in nft.splitlines():
        if found := re.match(r"table (\w+ \w+) \{", line):
            table = found[1]
        elif found := re.match(r"\s*(map|set) (\w+) \{.*flags dynamic", line):
            statements.append(f"flush {found[1]} {table} {found[2]}\n")
    return "".join(statements)
