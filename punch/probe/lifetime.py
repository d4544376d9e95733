"""How long a mapping lives: search over idling, with several mappings idling side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from punchlab.punch.nat.probe import Lifetime, NotTested

_SIDE_BY_SIDE = 8
_PRECISION = 0.05
_LEAST_LATE_S = 0.05
_LOOKS = 3

Look = Callable[[float], Awaitable[tuple[bool | NotTested, float]]]
"""Lets a mapping idle for so many seconds; whether it lived, and how many seconds it really idled."""
Lives = Callable[[float], Awaitable[bool | NotTested]]


async def punctually(look: Look, idle_s: float) -> bool | NotTested:
    """Whether a mapping lives through that much idling.

    One that this process, being late, let idle for longer, and that is dead, is no answer: then another one idles.
    """
    for _ in range(_LOOKS):
        lived, idled_s = await look(idle_s)
        if lived is not False or idled_s - idle_s <= max(_PRECISION * idle_s, _LEAST_LATE_S):
            return lived
    return NotTested("this process was too late to look after the time of idling")


async def search(lives: Lives, longest_s: float, time_scale: float) -> Lifetime | NotTested:
    """The lifetime of a mapping, to within 5 %, or that it is longer than `longest_s`.

    `lives` tells whether one lived through that many seconds. With a `time_scale` of 10, ten seconds of the NAT's pass
    in one: what is waited for is shorter, what is told is not.
    """
    first = await lives(0)
    if isinstance(first, NotTested):
        return first
    if not first:
        return NotTested("not even a mapping that was not idle was found alive; does the server know RESPONSE-PORT?")
    above, below = 0.0, None
    # Halving downwards from the longest, then eight equal steps between the last that lived and the first that did not.
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
