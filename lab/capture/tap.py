"""A packet socket on one interface in a node's namespace.

It avoids two problems:

- A socket that is opened for all protocols and bound later receives from every interface of the namespace until then.
  Here the socket is opened for protocol 0, which receives nothing, gets the filter, and is bound last.
- The kernel enables timestamps asynchronously after the first socket requests them. A frame that is queued before gets
  its timestamp when it is *read*: 2 ms late when measured. `await_timestamps` waits for a loopback datagram with a
  timestamp of its arrival.

Sent frames are captured after the queueing discipline, received frames before the firewall. So the last frame of a lost
packet shows which node dropped it.
"""

from __future__ import annotations

import errno
import socket
import struct
import time

from punchlab.lab.capture.bpf import Filter
from punchlab.lab.capture.frame import SNAP_LENGTH, UDP_SNAP_LENGTH, CapturePoint, Frame
from punchlab.lab.errors import LabError

_BUFFER = 16 << 20
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_TIMESPEC, _AUXDATA, _STATISTICS = struct.Struct("@ll"), struct.Struct("@IIIHHHH"), struct.Struct("@II")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA.size)


class Tap:
    """The packet socket of one capture point. It receives nothing before `listen`."""

    def __init__(self, point: CapturePoint, wanted: Filter, *, full: bool = False) -> None:
        self.point = point
        self._shorten_udp = point.udp and not full
        with point.namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wanted.program)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # outside the initial user namespace, net.core.rmem_max limits it
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def listen(self) -> None:
        """Bind to the interface; the kernel queues its frames from now on. Raises OSError if it does not exist."""
        self._socket.bind((self.point.interface, _ETH_P_ALL))

    def read(self) -> Frame | None:
        """Return the next queued frame, or None."""
        try:
            data, ancillary, _flags, address = self._socket.recvmsg(SNAP_LENGTH, _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # reported once when the interface goes down; the socket remains usable
                return None
            raise
        time_ns = length = 0
        for level, kind, content in ancillary:
            if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
                length = _AUXDATA.unpack(content)[1]
            elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                time_ns = _nanoseconds(content)
        if self._shorten_udp and _is_udp(data):
            data = data[:UDP_SNAP_LENGTH]
        outgoing = address[2] == socket.PACKET_OUTGOING
        return Frame(time_ns, self.point.node, self.point.interface, outgoing, data, length)

    def fileno(self) -> int:
        """Return the descriptor, which is readable when a frame is queued."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dropped(self) -> int:
        """Return the number of frames dropped since the last call because the buffer was full."""
        _seen, dropped = _STATISTICS.unpack(self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(dropped)


def await_timestamps(patience_s: float = 5.0) -> None:
    """Wait until the kernel timestamps packets on arrival, not when they are read.

    It does if the timestamp of a loopback datagram is no later than the end of the send. Raises `LabError` after
    `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        probe.settimeout(patience_s)
        while time.monotonic() < deadline:
            try:
                probe.sendto(b"", probe.getsockname())
                sent_ns = time.time_ns()
                _data, ancillary, _flags, _address = probe.recvmsg(1, _ANCILLARY)
            except OSError as error:
                raise LabError(f"capture: loopback: {error}") from error
            if any(_nanoseconds(content) <= sent_ns for _level, kind, content in ancillary if kind == _SO_TIMESTAMPNS):
                return
            time.sleep(0.0002)
    raise LabError("capture: the kernel does not timestamp packets on arrival")


def _is_udp(data: bytes) -> bool:
    """Return whether an Ethernet frame is UDP over IPv4 or IPv6."""
    if data[12:14] == b"\x08\x00":
        return data[23:24] == bytes([socket.IPPROTO_UDP])
    return data[12:14] == b"\x86\xdd" and data[20:21] == bytes([socket.IPPROTO_UDP])


def _nanoseconds(timespec: bytes) -> int:
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return int(seconds * 1_000_000_000 + nanoseconds)
