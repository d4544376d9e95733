"""A NAT's clock, made to run faster so that idling on it does not take hours."""

from __future__ import annotations

from dataclasses import fields

from punchlab.lab.errors import InputError
from punchlab.punch.nat.behavior import Timeouts

SHORTEST_S = 2
"""Connection tracking counts whole seconds, and takes two of them to call UDP a stream."""


def quickened(timeouts: Timeouts, time_scale: float | None) -> Timeouts:
    """The timeouts of a NAT whose clock runs `time_scale` times faster, in whole seconds.

    None: every timeout has a scale of its own that makes it short, the shortest `SHORTEST_S`; different timeouts stay
    different, and in order. Raises `InputError` for a scale that makes one shorter than that.
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
