"""Check whether a NAT has its claimed behavior, with a probe that does not know the rules.

The probe is a command, like any client: `punch probe` on the host, `punch edge --stun` on an edge with two addresses.
Fields that the probe cannot observe are examined from both ends at the same time, in a second lab whose NAT has shorter
timeouts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from punchlab.lab.check import claims, requirements
from punchlab.lab.check.claims import TRANSPORTS, Found
from punchlab.lab.check.clock import shortened
from punchlab.lab.check.examine import Observed, examine, read_back
from punchlab.lab.check.requirements import Facts
from punchlab.lab.client.description import command
from punchlab.lab.client.edges import PORT, stun_addresses
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.errors import LabError
from punchlab.lab.network import Network
from punchlab.lab.process.node import Node
from punchlab.punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

EDGE = (
    *("{python}", "-m", "punchlab.punch", "edge", "--listen", "{listen}", "--json"),
    *("--stun", "{stun}", "--stun-alternate", "{alternate}"),
)
PROBE = ("{python}", "-m", "punchlab.punch", "probe", "--edge", "{edge}", "--json")

_START_S = 30.0
_PROBE_S = 90.0
_MEASUREMENTS = 3
"""The maximum number of measurements while claims are untested. After the first, NATs are measured one at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One field of one transport: the claimed and the observed value, as text."""

    transport: str
    field: str
    claimed: str
    found: str

    @property
    def agrees(self) -> bool | None:
        """Whether the values are equal. None if the field was not tested."""
        return self.claimed == self.found if requirements.tested(self.found) else None


@dataclass(frozen=True, slots=True)
class Check:
    """The result for one NAT: fields compared with claims, and requirements of the RFCs.

    `found` is the report of the last probe, None if no probe succeeded.
    """

    rows: tuple[Row, ...]
    requirements: tuple[requirements.Row, ...]
    found: Found | None

    @property
    def agrees(self) -> bool | None:
        """True if all claims are confirmed, False if one is refuted, else None (some were not tested)."""
        verdicts = {row.agrees for row in self.rows}
        return None if None in verdicts and False not in verdicts else False not in verdicts

    @property
    def untested(self) -> int:
        """The number of claims that were not tested."""
        return sum(row.agrees is None for row in self.rows)


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
    """Check each NAT in a lab with `host` behind it, `jobs` in parallel, and return the results in the given order.

    `topology` returns the topology for a behavior. `progress` receives (done, total). `silent` maps names to the fields
    that are not claimed. `time_scale` is that of `shortened`. Claims that were not tested, because this machine is
    slow, are measured again afterwards, one NAT at a time. Raises `LabError`.
    """
    measuring = {
        name: _Measuring(topology, nat, host, silent.get(name, frozenset()), time_scale) for name, nat in nats.items()
    }
    done = 0
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(each.measure): each for each in measuring.values()}
        try:
            for measured in as_completed(running):
                measured.result()
                done += running[measured].complete
                progress(done, len(measuring))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for each in measuring.values():
        if not each.complete:
            each.measure_again()
            done += 1
            progress(done, len(measuring))
    return {name: each.verdict() for name, each in measuring.items()}


class _Measuring:
    """Measure one NAT until every claim is tested. The first observation of a field counts."""

    def __init__(
        self,
        topology: Callable[[NatBehavior | None], Topo],
        nat: NatBehavior | None,
        host: str,
        silent: frozenset[str],
        time_scale: float | None,
    ) -> None:
        self._topology, self._nat, self._host, self._silent, self._time_scale = topology, nat, host, silent, time_scale
        self._probed = dict(claims.unprobed(nat, "no measurement was made"))
        self._examined: dict[tuple[str, str], str] = {}
        self._timeouts: dict[str, str] = {}
        self._found: Found | None = None
        self._to_probe = self._claimed(claims.claims(nat))
        self._to_examine = set() if nat is None else self._claimed(claims.examined_claims(nat))

    @property
    def complete(self) -> bool:
        """Whether every claim is tested."""
        return _all_tested(self._probed, self._to_probe) and _all_tested(self._examined, self._to_examine)

    def measure(self) -> None:
        """Measure the claims that are not tested yet. Raises `LabError`."""
        with ThreadPoolExecutor(1) as executor:
            missing = not _all_tested(self._examined, self._to_examine)
            examining = executor.submit(self._examine) if self._nat is not None and missing else None
            if not _all_tested(self._probed, self._to_probe):
                self._probe()
            if self._nat is not None and examining is not None:
                _fill(self._examined, claims.examined(examining.result(), self._timeouts))

    def measure_again(self) -> None:
        """Repeat until every claim is tested, at most `_MEASUREMENTS` times in total. Raises `LabError`."""
        for _ in range(_MEASUREMENTS - 1):
            self.measure()
            if self.complete:
                return

    def verdict(self) -> Check:
        """Return the comparison of observations and claims."""
        return _verdict(self._nat, self._found, self._probed, self._examined, self._silent)

    def _claimed(self, claimed: Facts) -> set[tuple[str, str]]:
        return {(transport, field) for transport, field in claimed if field not in self._silent}

    def _probe(self) -> None:
        with Network(self._topology(self._nat)) as lab:
            try:
                self._found = probe(lab, self._host)
            except LabError as error:
                _fill(self._probed, claims.unprobed(self._nat, str(error)))
            else:
                _fill(self._probed, claims.probed(self._found))
            if self._nat is not None:
                self._timeouts = read_back(_router(lab, self._host))

    def _examine(self) -> Observed:
        assert self._nat is not None
        quick = shortened(self._nat.timeouts, self._time_scale)
        with Network(self._topology(replace(self._nat, timeouts=quick))) as lab:
            return examine(lab, self._host, quick)


def _all_tested(facts: Facts, claimed: Iterable[tuple[str, str]]) -> bool:
    return all(key in facts and requirements.tested(facts[key]) for key in claimed)


def _fill(facts: dict[tuple[str, str], str], more: Facts) -> None:
    """Add observations of fields that were not tested. Existing observations are not replaced."""
    facts |= {key: word for key, word in more.items() if key not in facts or not requirements.tested(facts[key])}


def _router(lab: Network, host: str) -> Node:
    return next(lab[name] for name in lab.path(host, lab.edges[0].name).nodes if lab[name].graph.behavior is not None)


def verdict(
    nat: NatBehavior | None,
    found: Found,
    seen: Observed | None,
    timeouts: Mapping[str, str],
    silent: frozenset[str] = frozenset(),
) -> Check:
    """Compare the results of a probe and, for a NAT, of an examination with the claims. `timeouts` is from
    `read_back`.
    """
    more = {} if seen is None else claims.examined(seen, timeouts)
    return _verdict(nat, found, claims.probed(found), more, silent)


def _verdict(
    nat: NatBehavior | None, found: Found | None, probed: Facts, examined: Facts, silent: frozenset[str]
) -> Check:
    rows = list(_rows(claims.claims(nat), probed, silent))
    judged: list[requirements.Row] = []
    if nat is not None and examined:
        claimed = claims.examined_claims(nat)
        rows += _rows(claimed, examined, silent)
        if nat.translates:  # the RFCs specify NATs
            judged = list(requirements.judge({**claims.claims(nat), **claimed}, {**probed, **examined}))
    return Check(tuple(sorted(rows, key=lambda row: ("ip", *TRANSPORTS).index(row.transport))), tuple(judged), found)


def compare(nat: NatBehavior | None, found: Found, silent: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Yield the claims that a probe can observe, with the observations."""
    yield from _rows(claims.claims(nat), claims.probed(found), silent)


def _rows(claimed: Facts, found: Facts, silent: frozenset[str]) -> Iterator[Row]:
    for (transport, field), word in claimed.items():
        if field not in silent:
            yield Row(transport, field, word, found.get((transport, field), "None"))


def probe(lab: Network, host: str, *options: str) -> Found:
    """Run `punch probe` on the host with the lab's first edge and return its report. Raises `LabError`."""
    see_internal_sources(lab[host])
    with probing_edge(lab) as url:
        try:
            done = lab[host].run([*command(PROBE, {"edge": url}), *options], timeout=_PROBE_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"{host}: the probe did not exit within {_PROBE_S:g} s") from None
    found: Found = json.loads(done.stdout)
    return found


def see_internal_sources(host: Node) -> None:
    """Let the host accept its own packets when they return with their internal source address."""
    host.run(["sysctl", "-qw", "net.ipv4.conf.all.accept_local=1"])


@contextmanager
def probing_edge(lab: Network) -> Iterator[str]:
    """Run the lab's first edge as a STUN server for probes and yield its URL. Raises `LabError`."""
    edge = lab.edges[0]
    values = {"listen": f"0.0.0.0:{PORT}", **stun_addresses(edge)}
    serving = EventProcess(edge, command(EDGE, values))
    try:
        if not wait_for([serving], lambda: serving.first("listening") is not None, _START_S):
            raise LabError(f"{edge.name}: the edge did not start: {serving.errors or 'no reason given'}")
        yield f"ws://{edge.address}:{PORT}"
    finally:
        serving.end()
