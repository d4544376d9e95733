"""A NAT of a running lab, and what can happen to it.

An event is in force when its method returns, and no packet sees half of it: while it is made, some tens of
milliseconds, every packet that comes to the NAT is lost.
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
    """One NAT. `link` is its access link, the way out."""

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], node: Node, link: RunningLink) -> None:
        self._graph, self._nodes, self._node = graph, nodes, node
        self._background: Background | None = None
        self.link = link

    def __repr__(self) -> str:
        return f"<NAT {self.name} {self.address}>"

    @property
    def name(self) -> str:
        """The name of its node."""
        return self._node.name

    @property
    def behavior(self) -> NatBehavior:
        """What it does now."""
        behavior = self._node.graph.behavior
        if behavior is None:
            raise LabError(f"{self.name}: a NAT without a behavior")
        return behavior

    @property
    def address(self) -> str:
        """Its (first) external address now."""
        return self._node.address

    def reboot(self, downtime_s: float = 0.0) -> None:
        """All state is lost: connections, mappings, the place in a sequence of ports. Its rules are there again.

        For `downtime_s` seconds before that no packet comes through, and none is answered.
        """
        numbers.seconds("downtime", downtime_s, least=0, most=LONGEST_DOWNTIME_S)

        def change() -> str:
            time.sleep(downtime_s)
            running.flush_connections(self._node.namespace, self._node.name)
            return _in_place_of(self._rules(), self._rules())  # iptables' part has no state

        self._while_closed(change)

    def flush(self) -> None:
        """All mappings and connections are forgotten, and nothing else: a sequence of ports goes on."""

        def change() -> str:
            running.flush_connections(self._node.namespace, self._node.name)
            return _emptied(self._rules().nft)

        self._while_closed(change, anew=False)

    def change_address(self, address: str | None = None) -> str:
        """Another external address, which is returned; the old one is gone, and with it all state.

        `address` is one of the same network, by default the next one; a pool follows it. Routers and hosts on the
        access link know it at once. Raises `InputError` for one that cannot be had.
        """
        outside = self._outside
        old, before = self.address, self._rules()
        new = self._free_address(address)

        def change() -> str:
            self._set_addresses(before.addresses, external_addresses(new, self.behavior))
            outside.address = f"{new}/{self._network.prefixlen}"
            self._tell_neighbors(old, new)
            running.flush_connections(self._node.namespace, self._node.name)
            return self._load(before, self._rules())

        self._while_closed(change)
        return new

    def link_down(self) -> None:
        """Cut the access link: packets are lost both ways, the NAT keeps its state."""
        self.link.down()

    def link_up(self) -> None:
        """Join the access link again."""
        self.link.up()

    def behave(self, nat: str | NatBehavior) -> None:
        """Another behavior, a preset's name or one of your own, for all mappings that are made from now on.

        Connections that are tracked go on by the endpoints that they have; `flush` ends them. Raises `InputError` for
        a behavior that needs another network around it: a public host, or a firewall in place of a NAT.
        """
        behavior = presets.behavior(nat)
        if behavior is None or behavior.translates is not self.behavior.translates:
            kind = "translates" if self.behavior.translates else "does not translate"
            raise InputError("behavior", nat, f"one that {kind}, as {self.name} does")
        before = self._rules()

        def change() -> str:
            self._set_addresses(before.addresses, external_addresses(self.address, behavior))
            self._node.graph.behavior = behavior
            return self._load(before, self._rules())

        self._while_closed(change)

    def background(self, rate: float, *, seed: int | str = 0, udp: float = 0.0, silent: float = 0.0) -> Background:
        """Other hosts behind it open `rate` connections a second, with Poisson arrivals, in place of any before.

        The same `seed` gives the same arrivals. `udp` is the fraction of them over UDP in place of TCP, `silent` the
        fraction that is for a server which never answers. Raises `InputError`.
        """
        arrivals = schedule(rate, seed, udp=udp, silent=silent)
        self.close()
        self._background = Background(self._graph, self._nodes, self._node, arrivals)
        return self._background

    @property
    def background_address(self) -> str | None:
        """The public address that its background traffic is for; None without."""
        return None if self._background is None else self._background.address

    def close(self) -> None:
        """No more background traffic; idempotent."""
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
        """That of the access link."""
        return ipaddress.IPv4Interface(self._outside.address or "").network

    def _rules(self) -> NatRules:
        return rules(
            self.behavior,
            inside=self._inside.name,
            outside=self._outside.name,
            address=self.address,
            ipv6=self._inside.address6 is not None,
        )

    def _while_closed(self, change: Callable[[], str], *, anew: bool = True) -> None:
        """Make a change while no packet passes, and load the nft statements that it returns.

        With `anew` helper processes are replaced too, and what hosts have asked them for is gone.
        """
        running.load()
        self._nft(_CLOSE)
        try:
            self._nft(change())
            if anew:
                self._node.end_helpers()
                for helper in start_helpers(self._node, self._rules()):
                    helper.wait()
        finally:
            self._nft(_OPEN)

    def _load(self, before: NatRules, after: NatRules) -> str:
        """Load iptables' part and the sysctls; the nft statements that are still to be loaded."""
        self._node.run(["iptables-restore"], stdin=after.iptables)
        if after.ip6tables:
            self._node.run(["ip6tables-restore"], stdin=after.ip6tables)
        with self._node.entered():
            sysctl.write(after.sysctls)
        return _in_place_of(before, after)

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
                raise InputError("address", wanted, f"a free address in {network}, where there is none")
            return found
        with contextlib.suppress(ValueError):
            if free(wanted):
                return wanted
        raise InputError("address", wanted, f"a free address in {network}")

    def _set_addresses(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Replace the external addresses; the first one of each has the prefix length of the network."""
        index = self._outside.index
        # Otherwise the network's route would go with the old address, and the default route with it.
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

    def _tell_neighbors(self, old: str, new: str) -> None:
        """Everybody on the access link has the new address in place of the old one, as neighbor and as gateway."""
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


def _in_place_of(before: NatRules, after: NatRules) -> str:
    """The nft statements that put the tables of `after`, empty, in the place of those of `before`."""
    return "".join(f"delete table {table}\n" for table in before.tables) + after.nft


def _emptied(nft: str) -> str:
    """The statements that forget what packets have put into the tables' maps and sets."""
    statements, table = [], ""
    for line in nft.splitlines():
        if found := re.match(r"table (\w+ \w+) \{", line):
            table = found[1]
        elif found := re.match(r"\s*(map|set) (\w+) \{.*flags dynamic", line):
            statements.append(f"flush {found[1]} {table} {found[2]}\n")
    return "".join(statements)
