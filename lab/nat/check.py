"""Does a NAT do what its behavior says? A probe that knows nothing of the rules looks at it from behind.

The probe is a command, like any client: `punch probe` on the host, `punch edge --stun` on an edge with two addresses.
What it cannot see is examined from both sides at the same time, in a second lab whose NAT has quicker clocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from lab.client import command
from lab.edges import PORT, stun_addresses
from lab.errors import LabError
from lab.lab import Lab
from lab.nat import claims
from lab.nat.claims import TRANSPORTS, Found
from lab.nat.clock import quickened
from lab.nat.examine import Observed, examine, read_back
from lab.node import Node
from lab.process import EventProcess, wait_for
from punch.nat import requirements
from punch.nat.behavior import NatBehavior
from punch.nat.requirements import Facts

if TYPE_CHECKING:
    from mininet.topo import Topo

EDGE = (
    *("{python}", "-m", "punch", "edge", "--listen", "{listen}", "--json"),
    *("--stun", "{stun}", "--stun-alternate", "{alternate}"),
)
PROBE = ("{python}", "-m", "punch", "probe", "--edge", "{edge}", "--json")

_START_S = 30.0
_PROBE_S = 90.0
_EXAMINATIONS = 3
"""How often it is looked at on a machine that is too busy to tell."""


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
    """A NAT, compared field by field and judged by the RFCs. `found` is the whole report of the probe."""

    rows: tuple[Row, ...]
    requirements: tuple[requirements.Row, ...]
    found: Found

    @property
    def agrees(self) -> bool:
        """Whether every claim was found to be true."""
        return all(row.agrees for row in self.rows)


def run(
    nats: Mapping[str, NatBehavior | None],
    topology: Callable[[NatBehavior | None], Topo],
    host: str,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
    silent: Mapping[str, frozenset[str]] = MappingProxyType({}),
    time_scale: float | None = None,
) -> dict[str, Check]:
    """Check each NAT, by name, in a lab with `host` behind it, `jobs` at a time; in the order given.

    `topology` makes the lab of a behavior. `progress` is told how many are done, of how many; `silent` are, by name,
    the fields of the behavior that are not claimed; `time_scale` is that of `quickened`. Raises `LabError`.
    """
    with ThreadPoolExecutor(jobs) as pool:
        running = {
            pool.submit(_check_in, topology, nat, host, silent.get(name, frozenset()), time_scale): name
            for name, nat in nats.items()
        }
        try:
            for number, done in enumerate(as_completed(running), start=1):
                done.result()
                progress(number, len(running))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: future.result() for future, name in running.items()}


def _check_in(
    topology: Callable[[NatBehavior | None], Topo],
    nat: NatBehavior | None,
    host: str,
    silent: frozenset[str],
    time_scale: float | None,
) -> Check:
    with ThreadPoolExecutor(1) as beside:
        examining = None if nat is None else beside.submit(_examine_in, topology, nat, host, time_scale)
        with Lab(topology(nat)) as lab:
            found = probe(lab, host)
            timeouts = {} if nat is None else read_back(_router(lab, host))
        seen = None if examining is None else examining.result()
    return verdict(nat, found, seen, timeouts, silent)


def _examine_in(
    topology: Callable[[NatBehavior | None], Topo], nat: NatBehavior, host: str, time_scale: float | None
) -> Observed:
    quick = quickened(nat.timeouts, time_scale)
    for _ in range(_EXAMINATIONS):
        with Lab(topology(replace(nat, timeouts=quick))) as lab:
            observed = examine(lab, host, quick)
        if observed.complete:
            break
    return observed


def _router(lab: Lab, host: str) -> Node:
    return next(lab[name] for name in lab.path(host, lab.edges[0].name).nodes if lab[name].graph.behavior is not None)


def verdict(
    nat: NatBehavior | None,
    found: Found,
    seen: Observed | None,
    timeouts: Mapping[str, str],
    silent: frozenset[str] = frozenset(),
) -> Check:
    """What a probe and, for a NAT, an examination found, against what it claims; `timeouts` as from `read_back`."""
    rows = list(compare(nat, found, silent))
    judged: list[requirements.Row] = []
    if nat is not None and seen is not None:
        claimed, more = claims.examined_claims(nat), claims.examined(seen, timeouts)
        rows += _rows(claimed, more, silent)
        if nat.translates:  # the RFCs are about NATs
            judged = list(requirements.judge({**claims.claims(nat), **claimed}, {**claims.probed(found), **more}))
    return Check(tuple(sorted(rows, key=lambda row: ("ip", *TRANSPORTS).index(row.transport))), tuple(judged), found)


def compare(nat: NatBehavior | None, found: Found, silent: frozenset[str] = frozenset()) -> Iterator[Row]:
    """What the behavior claims of what a probe can find, beside what was found."""
    yield from _rows(claims.claims(nat), claims.probed(found), silent)


def _rows(claimed: Facts, found: Facts, silent: frozenset[str]) -> Iterator[Row]:
    for (transport, field), word in claimed.items():
        if field not in silent:
            yield Row(transport, field, word, found.get((transport, field), "None"))


def probe(lab: Lab, host: str, *options: str) -> Found:
    """What `punch probe` finds on the host, with the lab's first edge to help it. Raises `LabError`."""
    see_internal_sources(lab[host])
    with probing_edge(lab) as url:
        done = lab[host].run([*command(PROBE, {"edge": url}), *options], timeout=_PROBE_S)
    found: Found = json.loads(done.stdout)
    return found


def see_internal_sources(host: Node) -> None:
    """Else the host would not see a packet of its own that comes back with its own, internal source."""
    host.run(["sysctl", "-qw", "net.ipv4.conf.all.accept_local=1"])


@contextmanager
def probing_edge(lab: Lab) -> Iterator[str]:
    """The lab's first edge, made to help probes for as long as the block; its URL. Raises `LabError`."""
    edge = lab.edges[0]
    values = {"listen": f"0.0.0.0:{PORT}", **stun_addresses(edge)}
    serving = EventProcess(edge, command(EDGE, values))
    try:
        if not wait_for([serving], lambda: serving.first("listening") is not None, _START_S):
            raise LabError(f"{edge.name}: the edge did not come up: {serving.errors or 'no reason given'}")
        yield f"ws://{edge.address}:{PORT}"
    finally:
        serving.end()
