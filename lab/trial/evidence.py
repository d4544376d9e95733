"""The evidence in the packets of a trial, and the client error if they exceed the limits of the recording or
analysis.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from punchlab.lab.capture.frame import Frame, Recording
from punchlab.lab.exchange import Delivery, ExcessiveError, Exchange, HostPair, delivery


@dataclass(frozen=True, slots=True)
class Evidence:
    """The exchange and the delivery. Both are empty if the packets exceed a limit, which `excess` names."""

    exchange: Exchange
    delivery: Delivery
    excess: str | None = None


class Source(Protocol):
    """The source of the frames: `lab.capture.recorder.Recorder`."""

    @property
    def excessive(self) -> bool:
        """Whether the capture ended early because it reached its memory limit."""

    def so_far(self) -> tuple[Frame, ...]:
        """Return the frames until now, in the order of time."""

    def wait_for_more(self, count: int, timeout_s: float) -> bool:
        """Wait until there are more than `count` frames. Return False after the timeout."""


def settled(source: Source, pair: HostPair, ways: Collection[tuple[str, ...]], patience_s: float) -> Exchange | None:
    """Return the exchange once the clients' FINs and RSTs are recorded. A link can delay them before the capture point.

    After `patience_s`, return the last exchange. Return None if the packets exceed a limit.
    """
    limit = time.monotonic() + patience_s
    while not source.excessive:
        try:
            exchange = Exchange(source.so_far(), pair)
            complete = delivery(exchange, ways).complete
        except ExcessiveError:
            return None
        # A client whose edges keep sending must not extend the wait: there are always more frames.
        left_s = limit - time.monotonic()
        if complete or left_s <= 0 or not source.wait_for_more(len(exchange.frames), left_s):
            return exchange
    return None


def examine(
    recording: Recording, exchange: Exchange | None, pair: HostPair, ways: Collection[tuple[str, ...]], most_bytes: int
) -> Evidence:
    """Return the evidence in the whole recording. `exchange` is that of its first frames, or None.

    A recording that ended early, after `most_bytes`, is not analyzed, because it cannot change the outcome.
    """
    if recording.excessive:
        return _nothing(pair, ways, f"the recorded packets exceed {most_bytes >> 20} MiB of memory")
    try:
        if exchange is None or len(exchange.frames) != len(recording.frames):
            exchange = Exchange(recording.frames, pair)
        return Evidence(exchange, delivery(exchange, ways))
    except ExcessiveError as error:
        return _nothing(pair, ways, f"the packets exceed the limits of the analysis: {error}")


def _nothing(pair: HostPair, ways: Collection[tuple[str, ...]], excess: str) -> Evidence:
    empty = Exchange((), pair)
    return Evidence(empty, delivery(empty, ways), excess)
