"""The verdict on a trial: its outcome, and the durations of its steps.

A success needs evidence of the lab; the claims of a client do not count:

direct          both clients exited with status 0, the sent file arrived unchanged, at least its size in bytes passed
                over connections between the hosts that cross exactly the NATs of the topology (or those of a shortcut,
                such as a LAN), and at most `EDGE_OVERHEAD` bytes through edges
relayed         the file arrived through edges
client_error    a client failed, or the capture does not show how the file arrived

If no client has exited at the end of the trial, the transfer is slow; its path so far determines the outcome. If a
client failed, its outcome counts; if both failed differently, the evidence decides which one is the cause (`_cause`).
`lab_error` is not set here: if the lab fails, there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from punchlab.lab.client.processes import Event
from punchlab.lab.exchange import Delivery, Exchange, delivery
from punchlab.lab.results.outcomes import OUTCOMES
from punchlab.punch.text import printable

EDGE_OVERHEAD = 32 * 1024
"""The maximum number of bytes from the sender through edges to the receiver in a direct trial, for rendezvous
messages.
"""

REASON_CHARACTERS = 1000
"""The maximum length of a client's text in a reason."""

_CLIENT_OUTCOMES = frozenset(OUTCOMES) - {"direct", "relayed", "lab_error"}
"""The outcomes that a client can report."""


@dataclass(frozen=True, slots=True)
class ClientRun:
    """The run of one host's client: its events, exit status and the end of its standard error.

    `returncode` is None for a client that did not exit in time. `ended_s` is the time of its exit (CLOCK_MONOTONIC
    seconds). `broken` is the contract violation (`lab.client.contract`) or the error at its start.
    """

    host: str
    events: Sequence[Event]
    returncode: int | None
    errors: str
    broken: str | None = None
    ended_s: float | None = None

    def time(self, name: str) -> float | None:
        """Return the CLOCK_MONOTONIC seconds of the first event of that name."""
        return next((float(event["t"]) for event in self.events if event["event"] == name), None)

    def last(self, name: str) -> Event | None:
        """Return the last event of that name."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def last_time(self, name: str) -> float | None:
        """Return the CLOCK_MONOTONIC seconds of the last event of that name."""
        event = self.last(name)
        return None if event is None else float(event["t"])

    @property
    def attempts(self) -> int:
        """The number of connection attempts to the peer's server-reflexive candidate."""
        return sum(1 for event in self.events if event["event"] == "attempt" and event.get("kind") == "srflx")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why and when one side failed. `time` is None if it is unknown."""

    side: ClientRun
    outcome: str
    reason: str
    time: float | None


def judge(
    sides: Sequence[ClientRun],
    *,
    arrived: bool,
    exchange: Exchange,
    nats: Sequence[str],
    shortcut: Sequence[str] | None = None,
    file_size: int = 1,
) -> tuple[str, str | None]:
    """Return the outcome and the reason, which is None for `direct`.

    `arrived`: whether the file of `file_size` bytes arrived unchanged. `nats` are the NAT nodes between the hosts,
    `shortcut` those of the shortcut (see `lab.graph.Path`).
    """
    proof = delivery(exchange, {tuple(way) for way in (nats, shortcut) if way is not None})
    if (broken := next((side.broken for side in sides if side.broken is not None), None)) is not None:
        return "client_error", printable(broken, REASON_CHARACTERS)
    if all(side.returncode == 0 for side in sides):
        if not arrived:
            return "client_error", "both clients exited with status 0, but the sent file did not arrive"
        return _way(proof, file_size, nats)
    if all(side.returncode is None for side in sides):
        return _unfinished(sides, proof)
    return _cause(sides, exchange)


def _way(proof: Delivery, file_size: int, nats: Sequence[str]) -> tuple[str, str | None]:
    """Return the outcome for a file that arrived, by its path."""
    counts = f"{proof.direct_bytes} bytes passed directly and {proof.edge_bytes} through edges"
    if proof.direct_bytes >= file_size and proof.edge_bytes <= EDGE_OVERHEAD:
        return "direct", None
    if proof.edge_bytes and proof.direct_bytes + proof.edge_bytes >= file_size:
        return "relayed", f"of a file of {file_size} bytes, {counts}"
    return "client_error", (
        f"the capture does not show how the file of {file_size} bytes arrived: {counts}; "
        f"expected a connection through {', '.join(nats) or 'no NAT'}"
    )


def _unfinished(sides: Sequence[ClientRun], proof: Delivery) -> tuple[str, str | None]:
    """Return the outcome of a trial in which both clients still ran at the end."""
    if proof.edge_bytes > EDGE_OVERHEAD:
        return "relayed", f"the transfer did not finish in time; {proof.edge_bytes} bytes passed through edges"
    if proof.connected and proof.direct_bytes:
        return "direct", f"the transfer did not finish in time; {proof.direct_bytes} bytes passed directly"
    return "client_error", f"{sides[0].host}: the client did not exit in time"


def _cause(sides: Sequence[ClientRun], exchange: Exchange) -> tuple[str, str]:
    """Return the failure that explains the trial, if at least one side failed and at least one exited."""
    # A client that waits for a peer that has exited is not the cause.
    failed = [_failure(side) for side in sides if side.returncode not in (0, None)]
    failed = failed or [_failure(side) for side in sides if side.returncode is None]
    by_outcome = {each.outcome: each for each in reversed(failed)}
    if "wrong_peer" in by_outcome:
        chosen = by_outcome["wrong_peer"]
    elif "client_error" in by_outcome:
        chosen = min(failed, key=lambda each: -math.inf if each.time is None else each.time)
    elif "no_rendezvous" in by_outcome:
        rendezvous = by_outcome.pop("no_rendezvous")
        found = rendezvous.side.last("peer_known") is not None
        chosen = next(iter(by_outcome.values())) if found and by_outcome else rendezvous
    elif "hopeless" in by_outcome:
        chosen = by_outcome["hopeless"]
    elif len(by_outcome) > 1:
        chosen = by_outcome["refused" if exchange.refused else "punch_timeout"]
    else:
        chosen = failed[0]
    return chosen.outcome, chosen.reason


def _failure(side: ClientRun) -> _Failure:
    failed = side.last("failed")
    if failed is not None and failed.get("outcome") in _CLIENT_OUTCOMES:
        return _Failure(
            side,
            str(failed["outcome"]),
            f"{side.host}: {printable(str(failed.get('reason')), REASON_CHARACTERS)}",
            side.last_time("failed"),
        )
    ended = "the client did not exit in time" if side.returncode is None else f"exit status {side.returncode}"
    words = side.errors.splitlines()[-1] if side.errors else ended
    return _Failure(side, "client_error", f"{side.host}: {printable(words, REASON_CHARACTERS)}", side.ended_s)


def chosen(sides: Sequence[ClientRun]) -> dict[str, dict[str, str | None]] | None:
    """Return what a strategy such as `auto` measured and selected, by host, or None if no client reports it.

    `nat` is the client's result for its own NAT, `strategy` its selection, `why` the reason; None for missing values.
    """
    found = {}
    for side in sides:
        nat, plan = side.last("own_nat") or {}, side.last("strategy") or {}
        said = {"nat": nat.get("words"), "strategy": plan.get("name"), "why": plan.get("why")}
        words = {name: _printable(value) for name, value in said.items()}
        if any(words.values()):
            found[side.host] = words
    return found or None


def _printable(value: object) -> str | None:
    return printable(value, REASON_CHARACTERS) if isinstance(value, str) else None


def timings(sides: Sequence[ClientRun], started_s: float) -> dict[str, float]:
    """Return the durations between events of both clients, in seconds, without missing or negative ones.

    `rendezvous`: from `started_s`, when the clients were started, to the later peer_known. `first_syn`: from there to
    the later first SYN. `connected`, `agreed` and `transferred`: from the earlier first SYN to the later event.
    `known_to_connected` and `known_to_agreed`: the same two from the later peer_known.
    """

    def later(name: str) -> float | None:
        times = [side.time(name) for side in sides]
        return None if None in times else max(time for time in times if time is not None)

    measured: dict[str, float | None] = {}
    known, syns = later("peer_known"), [side.time("first_syn") for side in sides]
    if known is not None:
        measured["rendezvous"] = known - started_s
        for event in ("connected", "agreed"):
            moment = later(event)
            measured[f"known_to_{event}"] = None if moment is None else moment - known
    if known is not None and None not in syns:
        instants = [instant for instant in syns if instant is not None]
        measured["first_syn"] = max(instants) - known
        for key, event in (("connected", "connected"), ("agreed", "agreed"), ("transferred", "done")):
            moment = later(event)
            measured[key] = None if moment is None else moment - min(instants)
    return {key: value for key, value in measured.items() if value is not None and value >= 0}
