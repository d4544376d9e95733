"""What a trial amounts to: its outcome, and how long things took.

`direct` has to be earned: both clients say that they are done, the file that arrived holds the fresh random bytes that
were sent, and the capture shows the winning four-tuple crossing exactly the NATs that the topology puts between the
hosts (or those on a shortcut, such as a LAN), and no edge. Whatever else happens has a name of its own. (`lab_error` is
given by whoever runs the trial: where the lab breaks there is nothing to judge.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.exchange import Exchange
from lab.process import Event

OUTCOMES = (
    "direct",
    "relayed",
    "no_rendezvous",
    "punch_timeout",
    "refused",
    "hopeless",
    "wrong_peer",
    "client_error",
    "lab_error",
)
"""Every outcome that a trial can have."""

_CLIENT_OUTCOMES = ("wrong_peer", "client_error", "no_rendezvous", "hopeless", "refused", "punch_timeout")
"""What a client may report, the most telling first: the two hosts may fail differently."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one host's client said: its events, exit status and the end of its standard error.

    `returncode` is None for a client that did not end in time. `broken` says how it broke its contract
    (`lab.contract`), or why it could not be started.
    """

    host: str
    events: Sequence[Event]
    returncode: int | None
    errors: str
    broken: str | None = None

    def time(self, name: str) -> float | None:
        """CLOCK_MONOTONIC seconds of the first event of that name."""
        return next((float(event["t"]) for event in self.events if event["event"] == name), None)

    def last(self, name: str) -> Event | None:
        """The last event of that name."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    @property
    def attempts(self) -> int:
        """How often it dialled its peer's public candidate."""
        return sum(1 for event in self.events if event["event"] == "attempt" and event.get("kind") == "public")


def judge(
    sides: Sequence[Side],
    *,
    arrived: bool,
    exchange: Exchange,
    nats: Sequence[str],
    shortcut: Sequence[str] | None = None,
) -> tuple[str, str | None]:
    """The outcome and, unless it is `direct`, the reason in words.

    `arrived` says whether the right file did; `nats` are the NAT nodes between the hosts, and on their `shortcut`
    (see `lab.lab.Path`).
    """
    if (broken := next((side.broken for side in sides if side.broken is not None), None)) is not None:
        return "client_error", broken
    if any(side.returncode != 0 for side in sides):
        return _failure(sides)
    winner = exchange.winner
    if not arrived:
        return "client_error", "both clients say that they are done, but the file that arrived is not the one sent"
    if all(_ends_at_an_edge(side, exchange) for side in sides):
        return "relayed", "the tunnel ran through the relay of an edge"
    if winner is None:
        return "client_error", "the capture shows no connection with the endpoints that the clients agreed on"
    if winner.edge:
        return "relayed", "the winning connection ran through an edge"
    if winner.nats not in {tuple(way) for way in (nats, shortcut) if way is not None}:
        crossed = ", ".join(winner.nats) or "no NAT"
        return "client_error", f"the winning connection crossed {crossed}; expected {', '.join(nats) or 'none'}"
    return "direct", None


def _ends_at_an_edge(side: Side, exchange: Exchange) -> bool:
    agreed = side.last("agreed")
    return agreed is not None and str(agreed["remote"]).rpartition(":")[0].strip("[]") in exchange.pair.edge_addresses


def _failure(sides: Sequence[Side]) -> tuple[str, str]:
    reported: dict[str, str] = {}
    # A client that waits in vain for one that ended is not the one to blame.
    for side in sorted(sides, key=lambda side: side.returncode is None):
        if side.returncode == 0:
            continue
        failed = side.last("failed")
        if failed is not None and failed.get("outcome") in _CLIENT_OUTCOMES:
            reported.setdefault(str(failed["outcome"]), f"{side.host}: {failed.get('reason')}")
            continue
        ended = "it did not end in time" if side.returncode is None else f"exit status {side.returncode}"
        words = side.errors.splitlines()[-1] if side.errors else ended
        reported.setdefault("client_error", f"{side.host}: {words}")
    return next((outcome, reported[outcome]) for outcome in _CLIENT_OUTCOMES if outcome in reported)


def timings(sides: Sequence[Side], begun: float) -> dict[str, float]:
    """What the clients' events tell, in seconds; only what happened on both sides.

    `rendezvous`: from `begun`, when the clients were started, to the later peer_known; `first_syn`: from there to the
    later first SYN; `connected`, `agreed` and `transferred`: from the earlier first SYN to the later side's event;
    `known_to_connected` and `known_to_agreed`: the former two from the later peer_known, when both know each other.
    """

    def later(name: str) -> float | None:
        times = [side.time(name) for side in sides]
        return None if None in times else max(time for time in times if time is not None)

    measured: dict[str, float | None] = {}
    known, syns = later("peer_known"), [side.time("first_syn") for side in sides]
    if known is not None:
        measured["rendezvous"] = known - begun
        for event in ("connected", "agreed"):
            moment = later(event)
            measured[f"known_to_{event}"] = None if moment is None else moment - known
    if known is not None and None not in syns:
        instants = [instant for instant in syns if instant is not None]
        measured["first_syn"] = max(instants) - known
        for key, event in (("connected", "connected"), ("agreed", "agreed"), ("transferred", "done")):
            moment = later(event)
            measured[key] = None if moment is None else moment - min(instants)
    return {key: value for key, value in measured.items() if value is not None}
