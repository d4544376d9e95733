"""The recorder: one packet socket per interface, read by one thread.

The kernel queues packets for a packet socket as soon as it is bound. So the capture is active when `start` returns,
independently of the scheduling of the thread.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from punchlab.lab.capture.bpf import compiled
from punchlab.lab.capture.frame import CapturePoint, Frame, Recording
from punchlab.lab.capture.tap import Tap, await_timestamps
from punchlab.lab.errors import LabError

FILTER = (
    "(ip and (icmp or (tcp and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0)))"
    # libpcap's filter language reads TCP flags only for IPv4. 6 is TCP, offset 53 its flags, and ICMPv6 types below 128
    # are errors.
    " or (ip6 and ((ip6[6] = 6 and ip6[53] & 7 != 0) or (icmp6 and ip6[40] < 128)))"
)
"""Packets that open, close or reject connections: some dozens per trial."""
UDP_FILTER = f"{FILTER} or udp"
"""The same and UDP, for points with `udp`."""
_FRAME_BYTES = 200
"""The approximate memory of a frame in addition to its data."""
FULL_FILTER = "ip or (ip6 and (tcp or udp or (icmp6 and ip6[40] < 128)))"


class Recorder:
    """Records the capture points from `start` to `stop`. `full` keeps all IP packets.

    It ends early, with `excessive` set, when the frames exceed about `most_bytes` of memory.

    One thread runs meanwhile: fork processes before the start. As a context manager it starts on entry and closes its
    sockets on exit.
    """

    def __init__(self, points: Sequence[CapturePoint], *, full: bool = False, most_bytes: int | None = None) -> None:
        self._points = tuple(points)
        self._most_bytes, self._bytes = most_bytes, 0
        self._full = full
        self._taps: list[Tap] = []
        self._frames: list[Frame] = []
        self._more = threading.Condition()
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._clock_offset_ns = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def start(self) -> None:
        """Start to capture on every point. When this returns, the kernel queues and timestamps every frame that passes
        the filter.

        Raises `LabError` naming the point that could not be opened, and closes all others.
        """
        if self._thread is not None:
            raise LabError("capture: already started")
        self._frames, self._failure, self._bytes = [], None, 0
        self._clock_offset_ns = clock_offset_ns()
        try:
            filters = (FULL_FILTER, FULL_FILTER) if self._full else (FILTER, UDP_FILTER)
            plain, with_udp = map(compiled, filters)
            for point in self._points:
                try:
                    self._taps.append(Tap(point, with_udp if point.udp else plain, full=self._full))
                    self._taps[-1].listen()
                except OSError as error:
                    raise LabError(f"capture: {point.node}, {point.interface}: {error.strerror}") from error
            await_timestamps()
        except BaseException:
            self._close()
            raise
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._drain_until_woken, name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> Recording:
        """Return everything captured until now. Raises `LabError` if a socket failed during the capture."""
        if self._thread is None:
            raise LabError("capture: not started")
        self._end_thread()
        try:
            if self._failure is None:
                self._drain(self._taps)
            if self._failure is not None:
                raise LabError(f"capture: {self._failure.strerror}") from self._failure
            drops = {tap.point.interface: count for tap in self._taps if (count := tap.dropped())}
        finally:
            self._close()
        frames = tuple(sorted(self._frames, key=lambda frame: frame.time_ns))
        interfaces = tuple(point.interface for point in self._points)
        return Recording(frames, interfaces, drops, self._clock_offset_ns, self.excessive)

    def so_far(self) -> tuple[Frame, ...]:
        """Return the frames captured until now, in the order of time. The capture continues."""
        with self._more:
            return tuple(sorted(self._frames, key=lambda frame: frame.time_ns))

    def wait_for_more(self, count: int, timeout_s: float) -> bool:
        """Wait until more than `count` frames are captured. Return False after the timeout."""
        with self._more:
            return self._more.wait_for(lambda: len(self._frames) > count, timeout_s)

    @property
    def excessive(self) -> bool:
        """Whether the capture ended early because it reached its memory limit."""
        return self._most_bytes is not None and self._bytes > self._most_bytes

    def _drain_until_woken(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for tap in self._taps:
                selector.register(tap, selectors.EVENT_READ, tap)
            while self._failure is None and not self.excessive:
                ready = [key.data for key, _events in selector.select()]
                if None in ready:
                    return
                self._drain(ready)

    def _drain(self, taps: Sequence[Tap]) -> None:
        try:
            for tap in taps:
                frames = []
                while not self.excessive and (frame := tap.read()) is not None:
                    frames.append(frame)
                    self._bytes += len(frame.data) + _FRAME_BYTES
                with self._more:
                    self._frames += frames
                    self._more.notify_all()
        except OSError as error:
            self._failure = error

    def _end_thread(self) -> None:
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)
            self._thread = None

    def _close(self) -> None:
        self._end_thread()
        # Each close waits about 10 ms for an RCU grace period of the kernel; in parallel they share it.
        closing = [threading.Thread(target=tap.close, name="capture") for tap in self._taps]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._taps = []


def clock_offset_ns() -> int:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC, accurate to a microsecond: the tightest of five readings."""

    def reading() -> tuple[int, int]:
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        return after - before, now - (before + after) // 2

    return min(reading() for _ in range(5))[1]
