"""The recorder: one packet socket per interface, drained by one thread.

A packet socket queues in the kernel from the moment it is bound, so capture runs when `start` returns: nothing depends
on when the thread is scheduled.
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
    # tcpdump's language looks into TCP over IPv4 only: 6 is TCP, 53 its flags, and ICMPv6 below 128 is an error.
    " or (ip6 and ((ip6[6] = 6 and ip6[53] & 7 != 0) or (icmp6 and ip6[40] < 128)))"
)
"""What opens, closes and refuses connections; a trial has some dozens of these."""
UDP_FILTER = f"{FILTER} or udp"
"""The same and UDP, for points with `udp`."""
_FRAME_BYTES = 200
"""Of memory, about, that a frame takes besides its data."""
FULL_FILTER = "ip or (ip6 and (tcp or udp or (icmp6 and ip6[40] < 128)))"


class Recorder:
    """Records the points from `start` to `stop`; `full` keeps all of IP, not just what opens and closes connections.

    It ends early, and the recording is `excessive`, when the frames take more than `most_bytes` of memory, about.

    One thread runs between the two: fork first, start the recorder afterwards. As a context manager it starts on entry
    and lets go of its sockets on exit, whatever happened in between.
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
        """Listen on every point. When this returns, the kernel queues and stamps every frame that passes the filter.

        Raises `LabError` naming the point that could not be opened; nothing stays open then.
        """
        if self._thread is not None:
            raise LabError("capture: started already")
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
        """Everything that was captured until now. Raises `LabError` when a socket broke while capturing."""
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
        """The frames that were captured until now, in the order of time; the capture continues."""
        with self._more:
            return tuple(sorted(self._frames, key=lambda frame: frame.time_ns))

    def wait_for_more(self, count: int, timeout_s: float) -> bool:
        """Wait until more than `count` frames were captured; false if that did not happen in time."""
        with self._more:
            return self._more.wait_for(lambda: len(self._frames) > count, timeout_s)

    @property
    def excessive(self) -> bool:
        """Whether the capture ended early, for there was too much to record."""
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
        # The kernel waits for an RCU grace period, some 10 ms, in each close; side by side they share it.
        closing = [threading.Thread(target=tap.close, name="capture") for tap in self._taps]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._taps = []


def clock_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, now: the tightest of five readings, good to a microsecond."""

    def reading() -> tuple[int, int]:
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        return after - before, now - (before + after) // 2

    return min(reading() for _ in range(5))[1]
