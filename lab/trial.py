"""One trial: a real client punches between two hosts of a running lab while every SYN is recorded."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import choices, control, numbers, verdict
from lab.capture.frame import CapturePoint, Recording
from lab.capture.recorder import Recorder
from lab.client import PUNCH, Client, command
from lab.control import Control
from lab.edges import PORT, EdgeNetwork
from lab.errors import InputError, LabError
from lab.exchange import Exchange, Pair
from lab.exchange import Side as ExchangeSide
from lab.forecast import forecast_with_private
from lab.lab import Lab
from lab.lab import Path as LabPath
from lab.pressure import CpuPressure
from lab.process import Event, EventProcess, wait_for
from lab.verdict import Side
from punch.nat.oracle import Dial, Prediction

_START_S = 20.0
"""How long a client may take until it has registered."""

_START_MARGIN_S = 2.0
"""How far ahead a shared start is set: both clients must know each other by then."""

_BRISK_S = 0.5
"""Hosts that know each other have met by then, unless they cannot or their links are slow."""

_TRANSFER_S = 120.0
_LARGEST_FILE = 1 << 30
"""The content is made in memory."""
_GRACE_S = 5.0
"""How much longer than the other one's deadline a client may live when its peer has ended."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to punch.

    `max_attempts` connect() calls per candidate (None: as many as `deadline_s` allows); with `skew_s` both hosts start
    at a shared instant, the second that much later; `file_size` in bytes; `full_capture` records every packet; with
    `relay` the clients may fall back to a relay of the edges.
    """

    client: Client = PUNCH
    strategy: str = "reuse"
    max_attempts: int | None = None
    deadline_s: float = 5.0
    skew_s: float | None = None
    file_size: int = 64 * 1024
    full_capture: bool = False
    relay: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.client, Client):
            raise InputError("client", self.client, "a Client")
        choices.one_of("strategy", self.strategy, self.client.strategies)
        if self.max_attempts is not None:
            numbers.attempts("max_attempts", self.max_attempts)
        numbers.deadline("deadline", self.deadline_s)
        if self.skew_s is not None:
            most = numbers.LARGEST_SKEW_MS / 1000
            numbers.seconds("skew_s", self.skew_s, least=-most, most=most)
        numbers.whole("file_size", self.file_size, least=1, most=_LARGEST_FILE, unit="a number of bytes")
        choices.flag("full_capture", self.full_capture)
        choices.flag("relay", self.relay)


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened in one trial; `lab.record` makes plain data of it.

    `path` is what lay between the hosts of `pair`, `links` what impaired the links, `background_per_s` the
    connections of other hosts through each NAT; `outcome` is one of `lab.verdict.OUTCOMES`, with the `reason` in words
    unless it is `direct`. `cpu_pressure` is the share of time (0 to 1; None if unknown) in which a task of the machine
    waited for a CPU while the clients punched: from when both knew their peer until they agreed on a connection, or one
    ended.
    """

    options: Options
    pair: tuple[str, str]
    path: LabPath
    links: str
    background_per_s: float
    started: datetime.datetime
    outcome: str
    reason: str | None
    sides: tuple[Side, Side]
    control: Control
    prediction: Prediction
    recording: Recording
    exchange: Exchange
    edge_log: Mapping[str, Sequence[Event]]
    timings_s: Mapping[str, float]
    cpu_pressure: float | None

    @property
    def direct(self) -> bool:
        """Whether the hosts met without a relay, proved as `lab.verdict` says."""
        return self.outcome == "direct"

    @property
    def agrees(self) -> bool | None:
        """Whether the trial and its control dial are as the oracle predicted; None where neither can tell."""
        verdicts = [self.prediction.agrees(self.direct), self.control.agrees]
        known = [verdict for verdict in verdicts if verdict is not None]
        return all(known) if known else None

    def __str__(self) -> str:
        one, other = self.pair
        head = f"{one} - {other}: {self.outcome}" + (f" ({self.reason})" if self.reason else "")
        return f"{head}; predicted: {self.prediction.outcome}, for {self.prediction.reason}\n{self.exchange.timeline()}"


def run(lab: Lab, one: str, other: str, options: Options, *, waiting: Callable[[], None] = lambda: None) -> Trial:
    """Punch between two hosts. Raises `LabError` where the lab itself breaks, `InputError` for hosts that are none.

    `waiting` is called when the clients have gone about it for a while: most of what is left then is waiting.
    """
    for host in (one, other):
        if lab[host].kind != "host":
            raise InputError("pair", host, "a host of the topology")
    if one == other:
        raise InputError("pair", f"{one},{other}", "two different hosts")
    started = datetime.datetime.now(datetime.UTC)
    edges = edge_network(lab, options.client)
    dialled = control.dial(lab, one, other)  # while the edges start
    edges.wait()
    with tempfile.TemporaryDirectory(prefix="punchlab-", dir="/run") as folder:
        sent, inbox = Path(folder) / "sent.bin", Path(folder) / "inbox"
        sent.write_bytes(secrets.token_bytes(options.file_size))
        inbox.mkdir()
        with Recorder(_capture_points(lab, one, other), full=options.full_capture) as recorder:
            begun = time.monotonic()
            sides, pressure = _punch(lab, one, other, options, sent, inbox, waiting)
            recording = recorder.stop()
        arrived = _same_content(sent, inbox / sent.name)
    if not edges.alive():
        raise LabError("an edge ended during the trial")
    agreed = sides[0].last("agreed")
    exchange = Exchange(
        recording.frames,
        pair_of(lab, one, other),
        None if agreed is None else (str(agreed["local"]), str(agreed["remote"])),
    )
    path = lab.path(one, other)
    outcome, reason = verdict.judge(sides, arrived=arrived, exchange=exchange, nats=path.nats, shortcut=path.shortcut)
    prediction = forecast_with_private(
        lab,
        one,
        other,
        Dial(
            path.delay_s,
            exchange.skew_s if exchange.skew_s is not None else options.skew_s or 0.0,
            options.max_attempts,
            options.deadline_s,
            path.loss,
            path.jitter_s,
        ),
        options.strategy,
        (exchange.since_rendezvous_s(one), exchange.since_rendezvous_s(other)),
    )
    return Trial(
        options=options,
        pair=(one, other),
        path=path,
        links=lab.links,
        background_per_s=lab.background_per_s,
        started=started,
        outcome=outcome,
        reason=reason,
        sides=sides,
        control=dialled,
        prediction=prediction,
        recording=recording,
        exchange=exchange,
        edge_log=edges.log,
        timings_s=verdict.timings(sides, begun),
        cpu_pressure=pressure,
    )


def pair_of(lab: Lab, one: str, other: str) -> Pair:
    """Who is who between two hosts of the lab, as the exchange needs it."""
    edges = {
        edge.name: frozenset(
            (*edge.graph.interfaces[0].hosts, lab.anycast, *(each.partition("/")[0] for each in edge.graph.addresses))
        )
        for edge in lab.edges
    }

    def side(host: str) -> ExchangeSide:
        nats = tuple(lab.in_front_of(host))
        outermost = next((name for name in reversed(nats) if lab[name].graph.translates), host)
        inside = [each.address or "" for name in nats for each in lab[name].graph.interfaces[1:]]
        gateways = frozenset(address.partition("/")[0] for address in inside)
        addresses = {lab[outermost].address, *([lab[host].address6] if lab.graph.nodes[host].address6 else [])}
        return ExchangeSide(host, nats, frozenset(addresses), gateways)

    others = frozenset(node.name for node in lab if node.kind == "host") - {one, other}
    return Pair(side(one), side(other), edges, others, lab.background_addresses)


def edge_network(lab: Lab, client: Client) -> EdgeNetwork:
    """The lab's edges, running this client's edge command since they were first asked for; wait for them."""
    if lab.edge_network is None:
        lab.edge_network = EdgeNetwork(lab.edges, client, lab.bus, ipv6=lab.edges_speak_ipv6)
    return lab.edge_network


def _punch(
    lab: Lab, one: str, other: str, options: Options, sent: Path, inbox: Path, waiting: Callable[[], None]
) -> tuple[tuple[Side, Side], float | None]:
    client = options.client
    values: dict[str, Any] = {
        "edge": f"ws://{lab.anycast}:{PORT}",
        "strategy": options.strategy,
        "deadline_s": options.deadline_s,
        "max_attempts": options.max_attempts,
        "relay": "--relay" if options.relay else None,
        "file": sent,
        "directory": inbox,
    }
    if not client.tells_code:
        values["code"] = secrets.token_hex(8)
    instants: tuple[float | None, float | None] = (None, None)
    if options.skew_s is not None:
        first = time.monotonic() + _START_MARGIN_S + 10 * lab.path(one, other).delay_s
        instants = (first + max(0.0, -options.skew_s), first + max(0.0, options.skew_s))
    sender, receiver = processes = [
        EventProcess(lab[host], command(words, values | {"start_at": instant}), client.function)
        for host, words, instant in zip((one, other), (client.sender, client.receiver), instants, strict=True)
    ]
    try:
        if client.tells_code:
            wait_for([sender], lambda: sender.first("code") is not None, _START_S)
            code = sender.first("code")
            receiver.tell("" if code is None else str(code["code"]))
        limit = time.monotonic() + _START_S + options.deadline_s + _TRANSFER_S
        _until_all_said(processes, "peer_known", limit)
        pressure = CpuPressure()  # Python's own start is over: that is work, and no latency
        if not _until_all_said(processes, "agreed", time.monotonic() + _BRISK_S):
            waiting()
            _until_all_said(processes, "agreed", limit)
        share = pressure.share()
        wait_for(processes, lambda: _ended(processes), limit - time.monotonic())
        # When one has ended, the other has its own deadline to come to the same.
        wait_for(processes, lambda: not any(process.open for process in processes), options.deadline_s + _GRACE_S)
        statuses = [process.returncode for process in processes]
        errors = [process.errors for process in processes]
    finally:
        for process in processes:
            process.end()
    sides = (
        Side(one, sender.events, statuses[0], errors[0]),
        Side(other, receiver.events, statuses[1], errors[1]),
    )
    return sides, share


def _ended(processes: Sequence[EventProcess]) -> bool:
    """Whether one of them has."""
    return not all(process.open for process in processes)


def _until_all_said(processes: Sequence[EventProcess], event: str, limit: float) -> bool:
    """Wait for an event of each, but not when one has ended; false when that took until the `limit`."""
    return wait_for(
        processes,
        lambda: _ended(processes) or all(process.first(event) is not None for process in processes),
        limit - time.monotonic(),
    )


def _capture_points(lab: Lab, one: str, other: str) -> list[CapturePoint]:
    """Every interface of the nodes between the two hosts, and of those between them and the edges."""
    ends = [one, other, *(edge.name for edge in lab.edges)]
    names = dict.fromkeys(name for end in ends for start in (one, other) for name in lab.path(start, end).nodes)
    return [
        CapturePoint(lab[name].namespace, name, interface.name)
        for name in names
        if lab[name].kind != "switch"
        for interface in lab.graph.nodes[name].interfaces
    ]


def _same_content(sent: Path, received: Path) -> bool:
    if not received.is_file():
        return False
    digests = []
    for path in (sent, received):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return digests[0] == digests[1]
