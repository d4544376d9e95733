"""The expected verdict on a trial, given its traffic: a second implementation of the definition.

The facts are from another capture than the lab's, and the toys themselves compare the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.lab.trial.verdicts.count import Counts

EDGE_OVERHEAD = 32 * 1024
"""The maximum number of bytes for rendezvous messages."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """A trial. A status is None for a client that the lab had to end."""

    counts: Counts
    statuses: tuple[int | None, int | None]
    events: tuple[Sequence[Event], Sequence[Event]]
    arrived: bool
    size: int
    ended_s: tuple[float | None, float | None]
    """When each client exited, on the clock of the events."""


def outcomes(facts: Facts) -> frozenset[str]:
    """Return the outcomes that the definition allows, usually one."""
    counts = facts.counts
    little_relayed = counts.relayed <= EDGE_OVERHEAD
    if facts.statuses == (0, 0):
        if facts.arrived and counts.direct >= facts.size and little_relayed:
            return frozenset({"direct"})
        if facts.arrived and counts.relayed and counts.direct + counts.relayed >= facts.size:
            return frozenset({"relayed"})
        return frozenset({"client_error"})
    if facts.statuses == (None, None):
        if not little_relayed:
            return frozenset({"relayed"})
        return frozenset({"direct" if counts.connected and counts.direct else "client_error"})
    return _failure(facts)


def _failure(facts: Facts) -> frozenset[str]:
    reports = [
        (_report(events), events)
        for status, events in zip(facts.statuses, facts.events, strict=True)
        if status not in (0, None)
    ]
    outcomes = {outcome for outcome, _events in reports}
    if not reports or "wrong_peer" in outcomes:
        return frozenset({"wrong_peer" if reports else "client_error"})
    if "client_error" in outcomes:
        # Later failures can be consequences: a client without its peer fails in its own way.
        return frozenset({min(zip(_times(facts), [outcome for outcome, _events in reports], strict=True))[1]})
    if any(outcome == "no_rendezvous" and not _said(events, "peer_known") for outcome, events in reports):
        return frozenset({"no_rendezvous"})
    if outcomes <= {"refused", "punch_timeout"} and facts.counts.punches:
        return frozenset({"refused" if facts.counts.refused else "punch_timeout"})
    return frozenset(outcomes)


def _times(facts: Facts) -> list[float]:
    """Return when the failed clients failed."""
    times = []
    for status, events, ended_s in zip(facts.statuses, facts.events, facts.ended_s, strict=True):
        failed = [float(event["t"]) for event in events if event["event"] == "failed"]
        if status not in (0, None):
            assert ended_s is not None
            times.append(failed[-1] if failed else ended_s)
    return times


def _report(events: Sequence[Event]) -> str:
    failed = [event for event in events if event["event"] == "failed"]
    return str(failed[-1]["outcome"]) if failed else "client_error"


def _said(events: Sequence[Event], name: str) -> bool:
    return any(event["event"] == name for event in events)


def must_not_agree(facts: Facts, outcome: str) -> str | None:
    """Return why `agrees` must be None, or None."""
    counts = facts.counts
    if counts.foreign:
        return "a host sent its peer packets that are not TCP"
    if outcome == "relayed" and counts.connected:
        return "the file was relayed although the hosts were connected"
    if not counts.punches:
        return "the punch never started"
    return None
