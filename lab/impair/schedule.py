"""When each packet leaves one direction of a link: netem's arithmetic (net/sched/sch_netem.c), pure and small."""

from __future__ import annotations

import random

from punchlab.lab.impair.impairment import Impairment

ETHERNET_HEADER = 14


class Schedule:
    """Feed it the packets of one direction in the order they come.

    Draws are repeatable: the same seed, impairment and packets give the same fates.
    """

    def __init__(self, impairment: Impairment, seed: str) -> None:
        self._random = random.Random(seed)
        self._loss = impairment.loss
        self._delay_ns = round(impairment.delay_s * 1e9)
        self._jitter_ns = round(impairment.jitter_s * 1e9)
        self._ns_per_byte = 8e9 / impairment.bandwidth if impairment.bandwidth is not None else 0.0
        self._last_ns = 0

    def lost(self) -> bool:
        """Whether the next packet vanishes."""
        return self._loss > 0 and self._random.random() < self._loss

    def departure(self, now_ns: int, length: int) -> int:
        """When a packet leaves that comes now; `length` is that of its IP packet, 0 will do without a bandwidth.

        With a bandwidth it leaves its own transmission time after the packet before it, or after its delay.
        """
        due = now_ns + self._delay_ns
        if self._jitter_ns:
            due += round((2 * self._random.random() - 1) * self._jitter_ns)
        if self._ns_per_byte:
            due = max(due, self._last_ns) + round((length + ETHERNET_HEADER) * self._ns_per_byte)
            self._last_ns = due
        return due
