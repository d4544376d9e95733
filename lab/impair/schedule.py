"""Compute when each packet leaves one direction of a link, as netem does (net/sched/sch_netem.c)."""

from __future__ import annotations

import random

from punchlab.lab.impair.impairment import Impairment

ETHERNET_HEADER = 14


class Schedule:
    """The schedule of one direction. Call it for packets in the order of arrival.

    The same seed, impairment and packets give the same results.
    """

    def __init__(self, impairment: Impairment, seed: str) -> None:
        self._random = random.Random(seed)
        self._loss = impairment.loss
        self._delay_ns = round(impairment.delay_s * 1e9)
        self._jitter_ns = round(impairment.jitter_s * 1e9)
        self._ns_per_byte = 8e9 / impairment.bandwidth if impairment.bandwidth is not None else 0.0
        self._last_ns = 0

    def lost(self) -> bool:
        """Return whether the next packet is lost."""
        return self._loss > 0 and self._random.random() < self._loss

    def departure(self, now_ns: int, length: int) -> int:
        """Return the departure time of a packet that arrives now, in ns. `length` is the length of the IP packet; it is
        ignored without a bandwidth.

        With a bandwidth, the packet leaves its transmission time after its delay or after the previous packet,
        whichever is later.
        """
        due = now_ns + self._delay_ns
        if self._jitter_ns:
            due += round((2 * self._random.random() - 1) * self._jitter_ns)
        if self._ns_per_byte:
            due = max(due, self._last_ns) + round((length + ETHERNET_HEADER) * self._ns_per_byte)
            self._last_ns = due
        return due
