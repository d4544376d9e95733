"""Shorten the timeouts of a NAT, so that tests of idle timeouts do not take hours."""

from __future__ import annotations

from dataclasses import fields

from punchlab.lab.errors import InputError
from punchlab.punch.nat.behavior import Timeouts

SHORTEST_S = 2
"""Connection tracking counts whole seconds, and classifies a UDP flow as a stream after two."""


def shortened(timeouts: Timeouts, time_scale: float | None) -> Timeouts:
    """Return the timeouts divided by `time_scale`, in whole seconds.

    None: replace the timeouts by short ones from `SHORTEST_S` on, keeping their order and equality. Raises `InputError`
    for a scale that makes a timeout shorter than `SHORTEST_S`.
    """
    named = {each.name: int(getattr(timeouts, each.name)) for each in fields(timeouts)}
    if time_scale is None:
        ranks = {value: SHORTEST_S + rank for rank, value in enumerate(sorted(set(named.values())))}
        return Timeouts(**{name: ranks[value] for name, value in named.items()})
    for name, value in named.items():
        if value < SHORTEST_S * time_scale:
            most = value / SHORTEST_S
            raise InputError("time-scale", time_scale, f"at most {most:g}, or {name} would be under {SHORTEST_S} s")
    return Timeouts(**{name: round(value / time_scale) for name, value in named.items()})
