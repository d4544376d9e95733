"""The lifetime of a mapping: a search with several mappings that are idle at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from punchlab.punch.nat.probe import Lifetime, NotTested

_SIDE_BY_SIDE = 8
_PRECISION = 0.05
_LEAST_LATE_S = 0.05
_TRIES = 3

IdleTest = Callable[[float], Awaitable[tuple[bool | NotTested, float]]]
"""Leaves a mapping idle for that many seconds; returns whether it survived, and how long it was really idle."""
Lives = Callable[[float], Awaitable[bool | NotTested]]


async def survives(test: IdleTest, idle_s: float) -> bool | NotTested:
    """Return whether a mapping survives that many idle seconds.

    A mapping that expired but was idle for longer, because this process was late, proves nothing; then the test is
    repeated.
    """
    for _ in range(_TRIES):
        lived, idled_s = await test(idle_s)
        if lived is not False or idled_s - idle_s <= max(_PRECISION * idle_s, _LEAST_LATE_S):
            return lived
    return NotTested("this process was too late to test the mapping after its idle time")


async def search(lives: Lives, longest_s: float, time_scale: float) -> Lifetime | NotTested:
    """Return the lifetime of a mapping, to within 5 %, or that it is longer than `longest_s`.

    `lives` returns whether a mapping survives that many seconds. With a `time_scale` of 10, ten seconds of the NAT take
    one second; arguments and results are in the NAT's seconds.
    """
    first = await lives(0)
    if isinstance(first, NotTested):
        return first
    if not first:
        return NotTested(
            "a mapping without idle time did not receive the answer; does the server support RESPONSE-PORT?"
        )
    above, below = 0.0, None
    # Fractions of the longest time, halved each time; then equal steps between the last that survived and the next.
    candidates = [longest_s / 2**step for step in reversed(range(_SIDE_BY_SIDE))]
    while True:
        answers = await asyncio.gather(*(lives(each / time_scale) for each in candidates))
        for idle_s, lived in zip(candidates, answers, strict=True):
            if isinstance(lived, NotTested):
                return lived
            if lived:
                above = idle_s
            else:
                below = idle_s
                break
        if below is None or below - above <= _PRECISION * below:
            return Lifetime(round(above, 3), None if below is None else round(below, 3))
        step = (below - above) / (_SIDE_BY_SIDE + 1)
        candidates = [above + step * number for number in range(1, _SIDE_BY_SIDE + 1)]
