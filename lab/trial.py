"""One trial: a real client punches between two hosts of a running lab, and what happened is proved and written down.

`direct` has to be earned: both clients say that they are done, the file that arrived holds the fresh random bytes that
were sent, and the capture shows the winning four-tuple crossing exactly the NATs that the topology puts between the
hosts, and no edge. Whatever else happens has a name of its own, and `lab_error` is never a failed punch.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import control
from lab.capture.frame import CapturePoint, Recording
from lab.capture.recorder import Recorder
from lab.client import PUNCH, Client, command
from lab.control import Control
from lab.edges import PORT, EdgeNetwork
from lab.errors import InputError, LabError
from lab.exchange import Exchange, Pair
from lab.exchange import Side as ExchangeSide
from lab.lab import Lab
from lab.process import Event, EventProcess, wait_for
from lab.versions import versions
from punch.nat.oracle import Dial, Prediction, predict

OUTCOMES = (
    "direct",
    "relayed",
    "no_rendezvous",
    "punch_timeout",
    "refused",
    "wrong_peer",
    "client_error",
    "lab_error",
)
"""Every outcome that a trial can have."""

_CLIENT_OUTCOMES = ("wrong_peer", "client_error", "no_rendezvous", "refused", "punch_timeout")
"""What a client may report, the most telling first: the two hosts may fail differently."""

_START_S = 20.0
_START_MARGIN_S = 2.0
_TRANSFER_S = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to punch.

    `max_attempts` connect() calls per candidate (None: as many as `deadline_s` allows); with `skew_s` both hosts start
    at a shared instant, the second that much later; `file_size` in bytes; `full_capture` records every packet.
    """

    client: Client = PUNCH
    strategy: str = "reuse"
    max_attempts: int | None = None
    deadline_s: float = 5.0
    skew_s: float | None = None
    file_size: int = 64 * 1024
    full_capture: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in self.client.strategies:
            raise InputError("strategy", self.strategy, f"one of {', '.join(self.client.strategies)}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise InputError("max_attempts", self.max_attempts, "a whole number from 1")
        if self.deadline_s <= 0:
            raise InputError("deadline", self.deadline_s, "a number of seconds above 0")
        if self.file_size < 1:
            raise InputError("file_size", self.file_size, "a number of bytes from 1")


@dataclass(frozen=True, slots=True)
class Side:
    """What one host's client said: its events, exit status and the end of its standard error."""

    host: str
    events: Sequence[Event]
    returncode: int | None
    errors: str

    def time(self, name: str) -> float | None:
        """CLOCK_MONOTONIC seconds of the first event of that name."""
        return next((float(event["t"]) for event in self.events if event["event"] == name), None)

    def last(self, name: str) -> Event | None:
        """The last event of that name."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened in one trial; `record` is the same as plain data."""

    lab: Lab
    options: Options
    pair: tuple[str, str]
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

    @property
    def direct(self) -> bool:
        """Whether the hosts met without a relay, proved as the module says."""
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


def run(lab: Lab, one: str, other: str, options: Options) -> Trial:
    """Punch between two hosts. Raises `LabError` where the lab itself breaks, `InputError` for hosts that are none."""
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
            sides = _punch(lab, one, other, options, sent, inbox)
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
    outcome, reason = _judge(lab, one, other, sides, arrived, exchange)
    path = lab.path(one, other)
    prediction = predict(
        lab.nat(one),
        lab.nat(other),
        Dial(
            path.delay_s,
            exchange.skew_s if exchange.skew_s is not None else options.skew_s or 0.0,
            options.max_attempts,
            options.deadline_s,
            path.loss,
        ),
    )
    return Trial(
        lab=lab,
        options=options,
        pair=(one, other),
        started=started,
        outcome=outcome,
        reason=reason,
        sides=sides,
        control=dialled,
        prediction=prediction,
        recording=recording,
        exchange=exchange,
        edge_log=edges.log,
        timings_s=_timings(sides, begun),
    )


def record(trial: Trial, **more: Any) -> dict[str, Any]:
    """The trial as one line of results.jsonl; `more` are the fields that only the run knows (id, topology, names)."""
    path, winner = trial.lab.path(*trial.pair), trial.exchange.winner
    return {
        "schema": 1,
        **more,
        "started": _timestamp(trial.started),
        "pair": list(trial.pair),
        "client": trial.options.client.name,
        "strategy": trial.options.strategy,
        "max_attempts": trial.options.max_attempts,
        "deadline_s": trial.options.deadline_s,
        "skew_wanted_s": trial.options.skew_s,
        "skew_s": trial.exchange.skew_s,
        "delay_s": path.delay_s,
        "jitter_s": path.jitter_s,
        "loss": path.loss,
        "links": trial.lab.links,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "prediction": _prediction(trial.prediction),
        "control": {
            "direct": trial.control.direct,
            "skew_s": trial.control.skew_s,
            "prediction": _prediction(trial.control.prediction),
        },
        "agrees": trial.agrees,
        "timings_s": dict(trial.timings_s),
        "attempts": {
            side.host: sum(1 for event in side.events if event["event"] == "attempt" and event.get("kind") == "public")
            for side in trial.sides
        },
        "path": None if winner is None else {"nats": list(winner.nats), "edge": winner.edge},
        "exchange": trial.exchange.summary(),
        "capture_dropped": sum(trial.recording.drops.values()),
        "versions": dict(versions()),
    }


def pair_of(lab: Lab, one: str, other: str) -> Pair:
    """Who is who between two hosts of the lab, as the exchange needs it."""
    edges = {edge.name: frozenset((edge.address, lab.anycast)) for edge in lab.edges}

    def side(host: str) -> ExchangeSide:
        nats = tuple(lab.path(host, lab.edges[0].name).nats)
        return ExchangeSide(host, nats, frozenset({lab[nats[-1] if nats else host].address}))

    others = frozenset(node.name for node in lab if node.kind == "host") - {one, other}
    return Pair(side(one), side(other), edges, others)


def edge_network(lab: Lab, client: Client) -> EdgeNetwork:
    """The lab's edges, running this client's edge command since they were first asked for; wait for them."""
    if lab.services is None:
        lab.services = EdgeNetwork(lab.edges, client)
    return lab.services


def _punch(lab: Lab, one: str, other: str, options: Options, sent: Path, inbox: Path) -> tuple[Side, Side]:
    client = options.client
    values: dict[str, Any] = {
        "edge": f"ws://{lab.anycast}:{PORT}",
        "strategy": options.strategy,
        "deadline_s": options.deadline_s,
        "max_attempts": options.max_attempts,
        "file": sent,
        "directory": inbox,
    }
    if not client.tells_code:
        values["code"] = secrets.token_hex(8)
    instants: tuple[float | None, float | None] = (None, None)
    if options.skew_s is not None:
        first = time.monotonic() + _START_MARGIN_S + 10 * lab.path(one, other).delay_s
        instants = (first + max(0.0, -options.skew_s), first + max(0.0, options.skew_s))
    sender = EventProcess(lab[one], command(client.sender, values | {"start_at": instants[0]}))
    receiver = EventProcess(lab[other], command(client.receiver, values | {"start_at": instants[1]}))
    processes = [sender, receiver]
    try:
        if client.tells_code and wait_for([sender], lambda: sender.first("code") is not None, _START_S):
            code = sender.first("code")
            receiver.tell(str(code["code"]) if code is not None else "")
        # An end is an end for both: the other one then has its own deadline to come to the same.
        limit = _START_S + options.deadline_s + _TRANSFER_S
        wait_for(processes, lambda: not any(process.open for process in processes), limit, stop_on_exit=False)
        statuses = [process.returncode for process in processes]
        errors = [process.errors for process in processes]
    finally:
        for process in processes:
            process.end()
    return (
        Side(one, sender.events, statuses[0], errors[0]),
        Side(other, receiver.events, statuses[1], errors[1]),
    )


def _judge(
    lab: Lab, one: str, other: str, sides: tuple[Side, Side], arrived: bool, exchange: Exchange
) -> tuple[str, str | None]:
    """The outcome and, unless it is `direct`, the reason in words."""
    if all(side.returncode == 0 for side in sides):
        if not arrived:
            return "client_error", "both clients say that they are done, but the file that arrived is not the one sent"
        winner, expected = exchange.winner, tuple(lab.path(one, other).nats)
        if winner is None:
            return "client_error", "the capture shows no connection with the endpoints that the clients agreed on"
        if winner.edge:
            return "relayed", "the winning connection ran through an edge"
        if winner.nats != expected:
            crossed = ", ".join(winner.nats) or "no NAT"
            return "client_error", f"the winning connection crossed {crossed}; expected {', '.join(expected) or 'none'}"
        return "direct", None
    reported: dict[str, str] = {}
    for side in sides:
        if side.returncode == 0:
            continue
        failed = side.last("failed")
        if failed is not None and failed.get("outcome") in _CLIENT_OUTCOMES:
            reported.setdefault(str(failed["outcome"]), f"{side.host}: {failed.get('reason')}")
        else:
            words = side.errors.splitlines()[-1] if side.errors else f"exit status {side.returncode}"
            reported.setdefault("client_error", f"{side.host}: {words}")
    return next((outcome, reported[outcome]) for outcome in _CLIENT_OUTCOMES if outcome in reported)


def _timings(sides: tuple[Side, Side], begun: float) -> dict[str, float]:
    """What the clients' events tell, in seconds.

    `rendezvous`: from the start of the clients to the later peer_known; `first_syn`: from there to the later first SYN;
    `connected`, `agreed` and `transferred`: from the earlier first SYN to the later side's event.
    """

    def later(name: str) -> float | None:
        times = [side.time(name) for side in sides]
        return None if None in times else max(time for time in times if time is not None)

    measured: dict[str, float | None] = {}
    known, syns = later("peer_known"), [side.time("first_syn") for side in sides]
    if known is not None:
        measured["rendezvous"] = known - begun
    if known is not None and None not in syns:
        instants = [instant for instant in syns if instant is not None]
        measured["first_syn"] = max(instants) - known
        for key, event in (("connected", "connected"), ("agreed", "agreed"), ("transferred", "done")):
            moment = later(event)
            measured[key] = None if moment is None else moment - min(instants)
    return {key: value for key, value in measured.items() if value is not None}


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


def _prediction(prediction: Prediction) -> dict[str, Any]:
    return {
        "outcome": str(prediction.outcome),
        "probability": prediction.probability,
        "reason": prediction.reason,
        "floor_s": prediction.floor_s,
    }


def broken(
    options: Options, pair: tuple[str, str], started: datetime.datetime, error: Exception, **more: Any
) -> dict[str, Any]:
    """The record of a trial in which the lab itself broke: nothing was measured."""
    return {
        "schema": 1,
        **more,
        "started": _timestamp(started),
        "pair": list(pair),
        "client": options.client.name,
        "strategy": options.strategy,
        "max_attempts": options.max_attempts,
        "deadline_s": options.deadline_s,
        "skew_wanted_s": options.skew_s,
        "outcome": "lab_error",
        "reason": str(error),
        "agrees": None,
        "versions": dict(versions()),
    }


def _timestamp(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
