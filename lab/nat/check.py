"""Does a NAT do what its behavior says? A probe that knows nothing of the rules looks at it from behind.

The probe is a command, like any client: `punch probe` on the host, `punch edge --stun` on an edge with two addresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lab.client import command
from lab.edges import PORT
from lab.errors import LabError
from lab.lab import Lab
from lab.process import EventProcess, wait_for
from punch.nat.behavior import Hairpinning, NatBehavior, PortAllocation

if TYPE_CHECKING:
    from mininet.topo import Topo

EDGE = (
    *("{python}", "-m", "punch", "edge", "--listen", "{listen}", "--json"),
    *("--stun", "{stun}", "--stun-alternate", "{alternate}"),
)
PROBE = ("{python}", "-m", "punch", "probe", "--edge", "{edge}", "--json")

TRANSPORTS = ("udp", "tcp")
STUN_PORTS = (3478, 3479)
"""Of the primary and of the alternate address; also the defaults of coturn."""

_START_S = 30.0
_PROBE_S = 90.0

Found = Mapping[str, Any]
"""What `punch probe --json` says."""


@dataclass(frozen=True, slots=True)
class Row:
    """One field of one transport: what is claimed and what was found, as words."""

    transport: str
    field: str
    claimed: str
    found: str

    @property
    def agrees(self) -> bool:
        """Whether the two are the same."""
        return self.claimed == self.found


@dataclass(frozen=True, slots=True)
class Check:
    """A NAT, compared field by field. `found` is the whole report of the probe."""

    rows: tuple[Row, ...]
    found: Found

    @property
    def agrees(self) -> bool:
        """Whether every claim was found to be true."""
        return all(row.agrees for row in self.rows)


def run(
    topologies: Mapping[str, Topo],
    host: str,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
    silent: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> dict[str, Check]:
    """Probe from `host` in each topology, `jobs` at a time; checks by name, in the order given.

    `progress` is told how many are done, of how many; `silent` are, by name, the fields of the behavior that are not
    claimed. Raises `LabError`.
    """
    with ThreadPoolExecutor(jobs) as pool:
        running = {
            pool.submit(_check_in, topology, host, silent.get(name, frozenset())): name
            for name, topology in topologies.items()
        }
        try:
            for number, done in enumerate(as_completed(running), start=1):
                done.result()
                progress(number, len(running))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: future.result() for future, name in running.items()}


def _check_in(topology: Topo, host: str, silent: frozenset[str]) -> Check:
    with Lab(topology) as lab:
        found = probe(lab, host)
        return Check(tuple(compare(lab.behavior(host), found, silent)), found)


def probe(lab: Lab, host: str, *options: str) -> Found:
    """What `punch probe` finds on the host, with the lab's first edge to help it. Raises `LabError`."""
    # Otherwise the host would not see a packet of its own that comes back with its own, internal source.
    lab[host].run(["sysctl", "-qw", "net.ipv4.conf.all.accept_local=1"])
    edge = lab.edges[0]
    alternate = edge.graph.addresses[-1].partition("/")[0]
    stun, other = (f"{ip}:{port}" for ip, port in zip((edge.address, alternate), STUN_PORTS, strict=True))
    values = {"listen": f"0.0.0.0:{PORT}", "stun": stun, "alternate": other}
    serving = EventProcess(edge, command(EDGE, values))
    try:
        if not wait_for([serving], lambda: serving.first("listening") is not None, _START_S):
            raise LabError(f"{edge.name}: the edge did not come up: {serving.errors or 'no reason given'}")
        words = [*command(PROBE, {"edge": f"ws://{edge.address}:{PORT}"}), *options]
        done = lab[host].run(words, timeout=_PROBE_S)
    finally:
        serving.end()
    found: Found = json.loads(done.stdout)
    return found


def compare(behavior: NatBehavior | None, found: Found, silent: frozenset[str] = frozenset()) -> Iterator[Row]:
    """What the behavior claims beside what was found; a public host (None) claims that nothing is in its way."""
    translated = {True: "translated", False: "not translated"}
    yield Row(
        "ip", "address", translated[behavior is not None and behavior.translates], translated[found["translated"]]
    )
    for transport in TRANSPORTS:
        for field, claimed in claims(behavior, transport).items():
            if field not in silent:
                yield Row(transport, field, claimed, _words(found[transport], field))


def claims(behavior: NatBehavior | None, transport: str) -> dict[str, str]:
    """Field of the probe -> value that the behavior promises over that transport."""
    promised = {"remote_endpoint": "unchanged", "pooling": "paired"}
    if behavior is None:
        return promised | {"filtering": "endpoint-independent"}
    promised |= {
        "mapping": str(behavior.mapping),
        "filtering": str(behavior.filtering),
        "port_allocation": str(behavior.port_allocation),
        "pooling": str(behavior.pooling),
    }
    if behavior.port_allocation is PortAllocation.BLOCKS:
        # One host sees a draw from its own block, as narrow as that; the width is in `port_range`.
        promised["port_allocation"] = str(PortAllocation.RANDOM)
    if behavior.port_allocation is PortAllocation.SEQUENTIAL:
        promised["port_delta"] = str(behavior.port_delta)
    if behavior.translates:
        # Over TCP the SYN-ACK goes past the NAT, so that no connection comes to be.
        unseen = transport == "tcp" and behavior.hairpinning is Hairpinning.INTERNAL_SOURCE
        promised["hairpinning"] = str(Hairpinning.NONE if unseen else behavior.hairpinning)
    if transport == "tcp":
        promised["unsolicited"] = str(behavior.unsolicited)
    else:
        promised["icmp_errors"] = str(behavior.icmp_errors)
    return promised


def _words(findings: Found, field: str) -> str:
    if field in findings["not_tested"]:
        return f"not tested: {findings['not_tested'][field]}"
    return str(findings[field])
