"""The recorder: one scapy packet socket per interface, each opened inside its node's namespace, drained by one thread.

A packet socket queues in the kernel from the moment it is bound, so capture runs when `start` returns: nothing depends
on when the thread is scheduled. What the socket must not do is hear too much or stamp too late:

- scapy's own constructor opens the socket for all protocols and binds it later; until then it hears every interface of
  the namespace, and its filter is compiled against scapy's list of interfaces, which is that of another namespace. Here
  the socket is made deaf (protocol 0), gets the filter, and is bound last.
- The kernel turns timestamping on from a work queue some time after the first socket asks for it, and a frame queued
  before that is stamped when it is *read*: 2 ms late, measured. `start` waits until a loopback datagram is stamped on
  arrival.

Frames that a node sends are seen after its queueing discipline and those that it receives before its firewall, so the
last frame of a lost packet shows the node that lost it.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from scapy.arch.common import compile_filter, free_filter
from scapy.arch.linux import PACKET_AUXDATA, L2ListenSocket
from scapy.data import DLT_EN10MB, ETH_P_ALL, SO_ATTACH_FILTER, SO_TIMESTAMPNS, SOL_PACKET
from scapy.layers.l2 import Ether
from scapy.libs.structures import bpf_program, sock_fprog

from lab.capture.frame import SNAP_LENGTH, CapturePoint, Frame, Recording
from lab.errors import LabError

FILTER = "ip and (icmp or (tcp and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0))"
"""What opens, closes and refuses connections; a trial has some dozens of these."""
FULL_FILTER = "ip"

_BUFFER = 16 << 20
_PACKET_STATISTICS, _SO_RCVBUFFORCE = 6, 33
_TIMESPEC, _AUXDATA, _STATISTICS = struct.Struct("@ll"), struct.Struct("@IIIHHHH"), struct.Struct("@II")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA.size)


class Tap(L2ListenSocket):
    """scapy's packet socket on one capture point; hears nothing before `listen`.

    `read` adds what scapy leaves out: the direction, and the nanoseconds.
    """

    def __init__(self, point: CapturePoint, program: bpf_program) -> None:
        self.point = point
        with point.namespace.entered():
            self.ins = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self.outs = None  # type: ignore[assignment]  # as scapy's own constructor has it
        self.iface, self.promisc, self.type, self.LL, self.lvl = point.interface, False, ETH_P_ALL, Ether, 2
        self.auxdata_available = True
        self.ins.setblocking(False)
        self.ins.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, sock_fprog(program.bf_len, program.bf_insns))
        self.ins.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.ins.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        try:
            self.ins.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # outside the initial user namespace net.core.rmem_max caps it
            self.ins.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def listen(self) -> None:
        """Bind to the interface: from here on the kernel queues its frames. Raises OSError when it does not exist."""
        self.ins.bind((self.point.interface, ETH_P_ALL))

    def read(self) -> Frame | None:
        """The next queued frame, None when there is none."""
        try:
            data, ancillary, _flags, address = self.ins.recvmsg(SNAP_LENGTH, _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # told once when the interface goes down; the socket lives on
                return None
            raise
        time_ns = length = 0
        for level, kind, content in ancillary:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                length = _AUXDATA.unpack(content)[1]
            elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                time_ns = _nanoseconds(content)
        outgoing = address[2] == socket.PACKET_OUTGOING
        return Frame(time_ns, self.point.node, self.point.interface, outgoing, data, length)

    def dropped(self) -> int:
        """Frames dropped for want of buffer since the last call."""
        _seen, dropped = _STATISTICS.unpack(self.ins.getsockopt(SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(dropped)


class Recorder:
    """Records the points from `start` to `stop`; `full` keeps all of IPv4, not just what opens and closes connections.

    One thread runs between the two: fork first, start the recorder afterwards. As a context manager it starts on entry
    and lets go of its sockets on exit, whatever happened in between.
    """

    def __init__(self, points: Sequence[CapturePoint], *, full: bool = False) -> None:
        self._points = tuple(points)
        self._filter = FULL_FILTER if full else FILTER
        self._taps: list[Tap] = []
        self._frames: list[Frame] = []
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
        self._clock_offset_ns = clock_offset_ns()
        program = compile_filter(self._filter, linktype=DLT_EN10MB)
        try:
            for point in self._points:
                try:
                    self._taps.append(Tap(point, program))
                    self._taps[-1].listen()
                except OSError as error:
                    raise LabError(f"capture: {point.node}, {point.interface}: {error.strerror}") from error
            _await_timestamps()
        except BaseException:
            self._close()
            raise
        finally:
            free_filter(program)
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
            dropped = {tap.point.interface: count for tap in self._taps if (count := tap.dropped())}
        finally:
            self._close()
        frames = tuple(sorted(self._frames, key=lambda frame: frame.time_ns))
        interfaces = tuple(point.interface for point in self._points)
        return Recording(frames, interfaces, dropped, self._clock_offset_ns)

    def _drain_until_woken(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for tap in self._taps:
                selector.register(tap, selectors.EVENT_READ, tap)
            while self._failure is None:
                ready = [key.data for key, _events in selector.select()]
                if None in ready:
                    return
                self._drain(ready)

    def _drain(self, taps: Sequence[Tap]) -> None:
        try:
            for tap in taps:
                while (frame := tap.read()) is not None:
                    self._frames.append(frame)
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


def _await_timestamps(patience_s: float = 5.0) -> None:
    """Return once the kernel stamps packets when they arrive, not when they are read.

    A loopback datagram tells: its stamp is no later than the end of the send. Raises `LabError` when it never is.
    """
    deadline = time.monotonic() + patience_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        probe.settimeout(patience_s)
        while time.monotonic() < deadline:
            try:
                probe.sendto(b"", probe.getsockname())
                sent_ns = time.time_ns()
                _data, ancillary, _flags, _address = probe.recvmsg(1, _ANCILLARY)
            except OSError as error:
                raise LabError(f"capture: loopback: {error}") from error
            if any(_nanoseconds(content) <= sent_ns for _level, kind, content in ancillary if kind == SO_TIMESTAMPNS):
                return
            time.sleep(0.0002)
    raise LabError("capture: the kernel does not stamp packets on arrival")


def _nanoseconds(timespec: bytes) -> int:
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return int(seconds * 1_000_000_000 + nanoseconds)
