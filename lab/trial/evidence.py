"""What the packets of a trial show, and the client error if there are more of them than the lab records or analyses."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from punchlab.lab.capture.frame import Frame, Recording
from punchlab.lab.exchange import Delivery, ExcessiveError, Exchange, HostPair, delivery


@dataclass(frozen=True, slots=True)
class Evidence:
    """The exchange and the delivery; both are empty if there are too many packets, which `excess` says in words."""

    exchange: Exchange
    delivery: Delivery
    excess: str | None = None


class Source(Protocol):
    """Where the frames come from: `lab.capture.recorder.Recorder`."""

    @property
    def excessive(self) -> bool:
        """Whether it ended early, for there was too much to record."""

    def so_far(self) -> tuple[Frame, ...]:
        """The frames until now, in the order of time."""

    def wait_for_more(self, count: int, timeout_s: float) -> bool:
        """Wait until there are more than `count` frames; false if that did not happen in time."""


def settled(source: Source, pair: HostPair, ways: Collection[tuple[str, ...]], patience_s: float) -> Exchange | None:
    """The exchange when the FINs and RSTs of the clients are there: a link can delay them before the capture.

    After `patience_s` it is the exchange as it was last. None if there are too many packets.
    """
    limit = time.monotonic() + patience_s
    while not source.excessive:
        try:
            exchange = Exchange(source.so_far(), pair)
            complete = delivery(exchange, ways).complete
        except ExcessiveError:
            return None
        # A client whose edges still send must not keep us here: there are always more frames.
        left_s = limit - time.monotonic()
        if complete or left_s <= 0 or not source.wait_for_more(len(exchange.frames), left_s):
            return exchange
    return None


def examine(
    recording: Recording, exchange: Exchange | None, pair: HostPair, ways: Collection[tuple[str, ...]], most_bytes: int
) -> Evidence:
    """What the whole recording shows; `exchange` is that of its first frames, or None.

    A recording that ended early, after `most_bytes`, is not analysed: nothing that it shows changes the outcome.
    """
    if recording.excessive:
        return _nothing(pair, ways, f"packets that take more than {most_bytes >> 20} MiB of memory to record")
    try:
        if exchange is None or len(exchange.frames) != len(recording.frames):
            exchange = Exchange(recording.frames, pair)
        return Evidence(exchange, delivery(exchange, ways))
    except ExcessiveError as error:
        return _nothing(pair, ways, f"more packets than the lab analyses: {error}")


def _nothing(pair: HostPair, ways: Collection[tuple[str, ...]], excess: str) -> Evidence:
    empty = Exchange((), pair)
    return Evidence(empty, delivery(empty, ways), excess)
