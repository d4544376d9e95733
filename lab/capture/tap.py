"""A scapy packet socket on one interface in a node's namespace.

It avoids two problems:

- scapy's constructor opens the socket for all protocols and binds it later. Until then it receives from every interface
  of the namespace, and it compiles its filter with scapy's list of interfaces, which belongs to another namespace. Here
  the socket is created without a protocol, then gets the filter, and is bound last.
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
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.arch.common import compile_filter, free_filter
from scapy.arch.linux import PACKET_AUXDATA, L2ListenSocket
from scapy.data import DLT_EN10MB, ETH_P_ALL, SO_ATTACH_FILTER, SO_TIMESTAMPNS, SOL_PACKET
from scapy.layers.l2 import Ether
from scapy.libs.structures import bpf_program, sock_fprog

from punchlab.lab.capture.frame import SNAP_LENGTH, UDP_SNAP_LENGTH, CapturePoint, Frame
from punchlab.lab.errors import LabError

_BUFFER = 16 << 20
_PACKET_STATISTICS, _SO_RCVBUFFORCE = 6, 33
_TIMESPEC, _AUXDATA, _STATISTICS = struct.Struct("@ll"), struct.Struct("@IIIHHHH"), struct.Struct("@II")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA.size)


class Tap(L2ListenSocket):
    """scapy's packet socket on one capture point. It receives nothing before `listen`.

    `read` adds the direction and nanoseconds, which scapy omits.
    """

    def __init__(self, point: CapturePoint, program: bpf_program, *, full: bool = False) -> None:
        self.point = point
        self._shorten_udp = point.udp and not full
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
        except PermissionError:  # outside the initial user namespace, net.core.rmem_max limits it
            self.ins.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def listen(self) -> None:
        """Bind to the interface; the kernel queues its frames from now on. Raises OSError if it does not exist."""
        self.ins.bind((self.point.interface, ETH_P_ALL))

    def read(self) -> Frame | None:
        """Return the next queued frame, or None."""
        try:
            data, ancillary, _flags, address = self.ins.recvmsg(SNAP_LENGTH, _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # reported once when the interface goes down; the socket remains usable
                return None
            raise
        time_ns = length = 0
        for level, kind, content in ancillary:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                length = _AUXDATA.unpack(content)[1]
            elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                time_ns = _nanoseconds(content)
        if self._shorten_udp and _is_udp(data):
            data = data[:UDP_SNAP_LENGTH]
        outgoing = address[2] == socket.PACKET_OUTGOING
        return Frame(time_ns, self.point.node, self.point.interface, outgoing, data, length)

    def dropped(self) -> int:
        """Return the number of frames dropped since the last call because the buffer was full."""
        _seen, dropped = _STATISTICS.unpack(self.ins.getsockopt(SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(dropped)


@contextmanager
def compiled(expression: str) -> Iterator[bpf_program]:
    """Compile a libpcap filter for Ethernet and free it at the end of the block."""
    program = compile_filter(expression, linktype=DLT_EN10MB)
    try:
        yield program
    finally:
        free_filter(program)


def await_timestamps(patience_s: float = 5.0) -> None:
    """Wait until the kernel timestamps packets on arrival, not when they are read.

    It does if the timestamp of a loopback datagram is no later than the end of the send. Raises `LabError` after
    `patience_s`.
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
    raise LabError("capture: the kernel does not timestamp packets on arrival")


def _is_udp(data: bytes) -> bool:
    """Return whether an Ethernet frame is UDP over IPv4 or IPv6."""
    if data[12:14] == b"\x08\x00":
        return data[23:24] == bytes([socket.IPPROTO_UDP])
    return data[12:14] == b"\x86\xdd" and data[20:21] == bytes([socket.IPPROTO_UDP])


def _nanoseconds(timespec: bytes) -> int:
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return int(seconds * 1_000_000_000 + nanoseconds)
