"""A small Internet as a Mininet topology: regions connected by long links, edges in regions, homes behind NATs.

Node names: hosts have the names that you choose (`a`), their NAT or firewall is `nat_a`, the switch of several hosts
`lan_a`, a region's router `core1`, its edge `edge1`, a carrier's NAT `cgn1` and its router `access1`. A host name has
ASCII letters, digits and `_`, after the first character also `.` and `-`. It has at most 10 characters. The first host
of a home, after which the NAT and the switch are named, has at most 6 (`nat_NAME-eth0` has at most 15 in the kernel;
one or two fewer with more than 9 hosts on a switch).

The address block is a parameter. The default 11.0.0.0/8 is globally routable, because real software refuses to punch
towards reserved blocks; the sandbox has no route out, so no packet leaves it. Every region has a sixteenth of the
block:

    11.0.0.1        anycast address of every edge; routing selects the nearest one
    11.0.1.0/24     long links between the region routers, a /30 each
    11.16.0.0/12    region 1:  11.16.0.2 edge1, 11.16.1.2 the first home's public address, 11.16.2.2 the second's …
                    11.16.0.3 edge1's second address, if any
    11.32.0.0/12    region 2   … and so on, up to region 15
    192.168.1.0/24  the inside of every home (they overlap, as in reality)
    100.64.0.0/10   the inside of every carrier (RFC 6598): 100.64.0.1 cgn1, 100.64.0.2 access1, 100.64.1.2 its first
                    home, 100.64.2.3 its second … (the last bytes differ, for carriers that allocate ports by them)

Every home has a /24. So there can be 4095 homes in a region of a /8, 15 in a region of a /16, and 253 behind a carrier
(the limit of the last byte). A home has up to 253 hosts.

The inside of a home with a firewall that does not translate is the next public /24. With IPv6, a node with a public
address a.b.c.d/len also has 2a11::a.b.c.d/(96+len). NATs have only IPv4 inside, except in a dual-stack home: its inside
also has the IPv6 counterpart of the next public /24, behind a firewall (`lab.nat.rules.IPV6_FIREWALL`).
"""

from __future__ import annotations

import heapq
import inspect
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mininet.topo import Topo

from punchlab.lab.errors import InputError
from punchlab.lab.impair import Impairment
from punchlab.lab.inputs.choices import INTERFACE_NAME_LENGTH, node_name, one_of
from punchlab.lab.nat import presets
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies.blocks import CARRIER_NETWORK, HOME_NETWORK, LARGEST_HOME, Region, public_block

EDGE_PORT = 7000
"""TCP port of the lab's edges."""

_IPV6_BLOCK = ipaddress.IPv6Network("2a11::/96")
_REGIONS = 15
_LONG_LINKS = 64
_LONGEST_NAME = INTERFACE_NAME_LENGTH - len("-eth0")


class Internet(Topo):
    """Base class of the topologies. Subclasses call the methods below in `build`, and `finish` last.

    Link options are Mininet's, per link and equal in both directions: `delay`, `jitter` ("20ms", one way), `loss`
    (percent), `bw` (Mbit/s). `pairs` are the hosts of trials, the default pair first. `shared_nat`: one NAT is in front
    of both hosts. `default_nat` is the default NAT of a host; runs compare `default_nats` by default (syntax of
    `lab.nat.presets.named`).
    """

    pairs: Sequence[tuple[str, str]] = ()
    shared_nat = False
    default_nat = "port_restricted_cone"
    default_nats = "classics"
    edges_speak_ipv6 = False
    """Whether the edges also listen on their IPv6 addresses."""

    def __init__(self, *words: Any, **parameters: Any) -> None:
        self._block: ipaddress.IPv4Network | None = None
        self._finished = False
        accepted = inspect.signature(self.build).parameters
        if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
            for name in parameters:
                one_of(f"parameter of {type(self).__name__}", name, accepted)
        super().__init__(*words, **parameters)
        self._require_begun()
        if not self._finished:
            self.finish()

    def begin(self, block: str = "11.0.0.0/8", *, ipv6: bool = False, two_stacks: bool = False) -> None:
        """Start an empty Internet with the public addresses of `block` (a /8 to /16). `ipv6` adds IPv6.

        With `two_stacks`, hosts behind NATs also have an IPv6 address.
        """
        if self._block is not None:
            raise InputError("begin", block, "one call of begin() per topology")
        self._block = public_block(block)
        self._shares = list(self._block.subnets(prefixlen_diff=4))
        self._ipv6, self._two_stacks = ipv6 or two_stacks, two_stacks
        self._regions: dict[str, Region] = {}
        self._carriers: dict[str, Region] = {}
        self._long_links: list[tuple[str, str, str, str, float]] = []
        self._routes: dict[str, list[tuple[str, str]]] = {}
        self._routes6: list[tuple[str, str, str]] = []  # node, IPv6 prefix, IPv4 counterpart of the gateway

    @property
    def anycast(self) -> str:
        """The anycast address of the edges."""
        return str(self._require_begun()[1])

    def region(self, name: str) -> str:
        """Add a region with its router. Returns the region's name for the methods below."""
        self._require_open()
        number = len(self._regions) + 1
        if number > _REGIONS:
            raise InputError("region", name, f"at most {_REGIONS} regions")
        if name in self._regions:
            raise InputError("region", name, "an unused name")
        router = f"core{number}"
        self._regions[name] = Region(router, self._shares[number])
        self._node(router, "router", forwarding=True)
        return name

    def edge(self, region: str, delay: str = "1ms", *, alternate: bool = False) -> str:
        """Add the region's edge with a unicast and the anycast address. Returns its name.

        `alternate` adds a second unicast address (RFC 5780), the last of its `addresses`.
        """
        where = self._region_of(region)
        if where.edge is not None:
            raise InputError("edge", region, "one edge in a region")
        name = where.edge = where.router.replace("core", "edge")
        gateway, address = str(where.network[1]), str(where.network[2])
        addresses = [f"{self.anycast}/32", *([f"{where.network[3]}/32"] if alternate else [])]
        self._node(name, "edge", gateway=gateway, addresses=addresses)
        self._link(name, where.router, f"{address}/24", f"{gateway}/24", delay=delay)
        self._routes[where.router] += [(extra, address) for extra in addresses]
        return name

    def carrier(self, region: str, nat: str | NatBehavior, unsolicited: str = "preset", **uplink: Any) -> str:
        """Add a carrier to the region, whose NAT is in front of the NATs of its homes (NAT444). Returns its name for
        `home`.

        `nat` and `unsolicited` are as in `home`. `uplink` are the options of the link between the carrier's NAT and the
        region's router.
        """
        where = self._region_of(region)
        behavior = presets.behavior(nat, unsolicited)
        if behavior is None or not behavior.translates:
            raise InputError("cgn", nat, "a NAT that translates, because the homes have private addresses (RFC 6598)")
        number = len(self._carriers) + 1
        box, router = f"cgn{number}", f"access{number}"
        inner, outer = (str(CARRIER_NETWORK[host]) for host in (1, 2))
        self._box(box, where, behavior, nat, uplink)
        self._node(router, "router", gateway=inner, forwarding=True)
        self._link(box, router, f"{inner}/24", f"{outer}/24")
        self._routes[box].append((str(CARRIER_NETWORK), outer))
        self._carriers[box] = Region(router, CARRIER_NETWORK)
        return box

    def long_link(self, one: str, other: str, delay: str = "40ms", **options: Any) -> None:
        """Connect two regions."""
        routers = self._region_of(one).router, self._region_of(other).router
        if one == other:
            raise InputError("long link", f"{one},{other}", "two different regions")
        number = len(self._long_links)
        if number >= _LONG_LINKS:
            raise InputError("long link", f"{one},{other}", f"at most {_LONG_LINKS} long links")
        subnet = self._require_begun()[256 + 4 * number]
        left, right = str(subnet + 1), str(subnet + 2)
        self._link(*routers, f"{left}/30", f"{right}/30", delay=delay, **options)
        self._long_links.append((*routers, left, right, Impairment.from_options({"delay": delay}).delay_s))

    def home(
        self,
        region: str,
        hosts: Sequence[str],
        nat: str | NatBehavior,
        unsolicited: str,
        port_mapping: str = presets.OWN_ANSWER,
        **access: Any,
    ) -> None:
        """Add hosts behind one NAT (a preset name, `none` for a public host, or a behavior) to the region.

        `region` can be a carrier, which does not support firewalls without translation. `unsolicited` and
        `port_mapping` override a preset; `preset` keeps its value, and a behavior is not changed. `access` are the
        options of the link between the NAT and the router.
        """
        self._require_open()
        where = self._carriers[region] if region in self._carriers else self._region_of(region, *self._carriers)
        behavior = presets.behavior(nat, unsolicited, port_mapping)
        self._check_hosts(hosts, behind=behavior is not None)
        if behavior is None:
            if len(hosts) != 1:
                raise InputError(f"nat_{hosts[0]}", nat, f"a NAT, because {len(hosts)} hosts share one address")
            gateway, address = where.home()
            self._node(hosts[0], "host", gateway=gateway)
            self._link(hosts[0], where.router, f"{address}/24", f"{gateway}/24", **access)
            return
        if region in self._carriers and not behavior.translates:
            raise InputError(f"nat_{hosts[0]}", nat, "a NAT, or none, because a carrier assigns no public addresses")
        box, inside = f"nat_{hosts[0]}", HOME_NETWORK
        address = self._box(box, where, behavior, nat, access)
        if not behavior.translates:
            inside = ipaddress.IPv4Network(f"{where.home()[0]}/24", strict=False)
            self._routes[where.router].append((str(inside), address))
        elif self._two_stacks:
            if len(hosts) != 1:
                raise InputError("hosts", ",".join(hosts), "one host in a home with two stacks")
            self._dual_home(where, box, hosts[0], address)
            return
        router, length = inside[1], inside.prefixlen
        if len(hosts) > 1:
            switch = f"lan_{hosts[0]}"
            # Mininet needs a datapath ID that it cannot derive from the name.
            self.addSwitch(switch, kind="switch", dpid=f"{len(self.switches()) + 1:x}")
            self._link(box, switch, f"{router}/{length}", None)
        for number, host in enumerate(hosts, start=2):
            self._node(host, "host", gateway=str(router))
            address = f"{inside[number]}/{length}"
            if len(hosts) > 1:
                self._link(host, switch, address, None)
            else:
                self._link(host, box, address, f"{router}/{length}")

    def _dual_home(self, where: Region, box: str, host: str, outside: str) -> None:
        """Add a host with a private IPv4 and a public IPv6 address behind an existing router."""
        subnet = ipaddress.IPv4Network(f"{where.home()[0]}/24", strict=False)
        gateway6, host6 = (self._ipv6_of(f"{subnet[number]}/24") for number in (1, 2))
        self._routes6 += [(where.router, str(_embedded(subnet)), outside), (host, "::/0", str(subnet[1]))]
        gateway = HOME_NETWORK[1]
        self._node(host, "host", gateway=str(gateway))
        self._link(host, box, f"{HOME_NETWORK[2]}/24", f"{gateway}/24", ipv6=(host6, gateway6))

    def finish(self) -> None:
        """Compute all routing tables: shortest paths by delay to each region and to the nearest edge. Then add IPv6.

        Nothing can be added afterwards. It is called at the end of `build` if `build` does not call it.
        """
        self._require_open()
        self._finished = True
        for name, region in self._regions.items():
            reached = dict(self._shortest_paths(region.router))
            for other, there in self._regions.items():
                if other != name and there.router in reached:
                    self._routes[region.router].append((str(there.network), reached[there.router][1]))
            if region.edge is None:
                near = [(reached[r.router], r) for r in self._regions.values() if r.edge and r.router in reached]
                if near:
                    (_distance, gateway), _region = min(near, key=lambda entry: entry[0])
                    self._routes[region.router].append((f"{self.anycast}/32", gateway))
        if self._ipv6:
            for routes in self._routes.values():
                # Routes to single addresses, those of edges, are IPv4 only.
                networks = [(ipaddress.IPv4Network(prefix), self._ipv6_of(gateway)) for prefix, gateway in routes]
                routes += [(_embedded(net), via) for net, via in networks if via is not None and net.prefixlen < 32]
            for node, prefix, gateway in self._routes6:
                self._routes[node].append((prefix, str(self._ipv6_of(gateway))))

    def _shortest_paths(self, start: str) -> Iterator[tuple[str, tuple[float, str]]]:
        """Yield each reachable router with its distance in seconds and the first gateway."""
        queue, seen = [(0.0, start, "")], set[str]()
        while queue:
            distance, here, first = heapq.heappop(queue)
            if here in seen:
                continue
            seen.add(here)
            if first:
                yield here, (distance, first)
            for one, other, left, right, delay in self._long_links:
                for source, target, gateway in ((one, other, right), (other, one, left)):
                    if source == here:
                        heapq.heappush(queue, (distance + delay, target, first or gateway))

    def _box(
        self, name: str, where: Region, behavior: NatBehavior, preset: str | NatBehavior, access: Mapping[str, Any]
    ) -> str:
        """Add a NAT or firewall to the router. Returns its outside address."""
        gateway, address = where.home()
        last = int(ipaddress.IPv4Address(address)) % 256 + behavior.pool_size - 1
        if last > LARGEST_HOME + 1:
            raise InputError(
                "pool_size", behavior.pool_size, f"at most the addresses from {address} to the end of its /24"
            )
        self._node(name, "nat", gateway=gateway, behavior=behavior, preset=preset, forwarding=True)
        self._link(name, where.router, f"{address}/24", f"{gateway}/24", **access)
        return address

    def _require_begun(self) -> ipaddress.IPv4Network:
        """Return the block. Raises `InputError` before `begin`."""
        if self._block is None:
            raise InputError("topology", type(self).__name__, "a build() that calls begin() first")
        return self._block

    def _require_open(self) -> None:
        self._require_begun()
        if self._finished:
            raise InputError("topology", type(self).__name__, "finish() as the last call in build()")

    def _region_of(self, name: str, *others: str) -> Region:
        """Return the region of that name. `others` are further valid names, for the error."""
        self._require_open()
        return self._regions[one_of("region", name, (*self._regions, *others))]

    def _check_hosts(self, hosts: Sequence[str], *, behind: bool) -> None:
        """Check the names of a home's hosts. The NAT and the switch are named after the first one."""
        if isinstance(hosts, str) or not isinstance(hosts, Sequence) or not 1 <= len(hosts) <= LARGEST_HOME:
            raise InputError("hosts", hosts, f"a list of 1 to {LARGEST_HOME} names")
        limit = f"the names of interfaces have at most {INTERFACE_NAME_LENGTH}"
        for host in hosts:
            node_name("host", host, longest=_LONGEST_NAME, because=limit)
        given = [*([f"nat_{hosts[0]}"] if behind else []), *([f"lan_{hosts[0]}"] if len(hosts) > 1 else [])]
        for made in given:
            interface = f"{made}-eth{len(hosts) if made.startswith('lan') else 1}"
            longest = len(hosts[0]) + INTERFACE_NAME_LENGTH - len(interface)
            node_name("host", hosts[0], longest=longest, because=f"{limit}, and there is one called {interface}")
            if made in self.g.node:
                raise InputError("host", hosts[0], f"a name for which {made} is unused")

    def _node(self, name: str, kind: str, gateway: str | None = None, **options: object) -> None:
        if name in self.g.node:
            raise InputError("host", name, "an unused name")
        self._routes[name] = routes = [] if gateway is None else [("0.0.0.0/0", gateway)]
        self.addHost(name, cls=_mininet_node, kind=kind, routes=routes, **options)

    def _link(
        self,
        one: str,
        other: str,
        first: str | None,
        second: str | None,
        ipv6: tuple[str | None, str | None] = (None, None),
        **options: Any,
    ) -> None:
        """`ipv6` are IPv6 addresses in addition to private IPv4 ones. Public IPv4 addresses have counterparts."""
        wanted = {key: value for key, value in options.items() if value is not None}
        Impairment.from_options(wanted)
        ends: dict[str, dict[str, str]] = {}
        for number, address, address6 in ((1, first, ipv6[0]), (2, second, ipv6[1])):
            if address is not None:
                ends[f"params{number}"] = {"ip": address}
                if (found := address6 or self._ipv6_of(address)) is not None:
                    ends[f"params{number}"]["ip6"] = found
        self.addLink(one, other, **ends, **wanted)
        for node, address in ((one, first), (other, second)):
            if address is not None:
                self.nodeInfo(node).setdefault("ip", address)

    def _ipv6_of(self, address: str) -> str | None:
        """Return the IPv6 counterpart of a public address, with its prefix length if any, or None for another
        address.
        """
        parsed = ipaddress.IPv4Interface(address)
        if not self._ipv6 or parsed.ip not in self._require_begun():
            return None
        return _embedded(parsed) if "/" in address else _embedded(parsed).partition("/")[0]


def _mininet_node(*words: object, **parameters: object) -> object:
    """Return the node class for Mininet's own engine. `mininet.node` imports distutils, which takes 0.2 s of CPU."""
    from punchlab.topologies.mininet_nodes import InternetNode

    return InternetNode(*words, **parameters)


def _embedded(ipv4: ipaddress.IPv4Interface | ipaddress.IPv4Network) -> str:
    """Return the IPv6 counterpart: the IPv4 address is the last 32 bits. The counterpart of the default route is the
    default route.
    """
    if isinstance(ipv4, ipaddress.IPv4Interface):
        return f"{_IPV6_BLOCK[int(ipv4)]}/{_IPV6_BLOCK.prefixlen + ipv4.network.prefixlen}"
    if not ipv4.prefixlen:
        return "::/0"
    return f"{_IPV6_BLOCK[int(ipv4.network_address)]}/{_IPV6_BLOCK.prefixlen + ipv4.prefixlen}"


def share(delay: str, fraction: float) -> str:
    """Return a fraction of a delay in Mininet's syntax: share("20ms", 0.5) is "10000us"."""
    return f"{Impairment.from_options({'delay': delay}).delay_s * fraction * 1e6:.0f}us"
