"""A scapy packet socket on one interface inside a node's namespace.

What such a socket must not do is hear too much or stamp too late:

- scapy's own constructor opens the socket for all protocols and binds it later; until then it hears every interface of
  the namespace, and its filter is compiled against scapy's list of interfaces, which is that of another namespace. Here
  the socket is made deaf (protocol 0), gets the filter, and is bound last.
- The kernel turns timestamping on from a work queue some time after the first socket asks for it, and a frame queued
  before that is stamped when it is *read*: 2 ms late, measured. `await_timestamps` waits for a loopback datagram that
  is stamped on arrival.

Frames that a node sends are seen after its queueing discipline and those that it receives before its firewall, so the
last frame of a lost packet shows the node that lost it.
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
    """scapy's packet socket on one capture point; hears nothing before `listen`.

    `read` adds what scapy leaves out: the direction, and the nanoseconds.
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
        if self._shorten_udp and _is_udp(data):
            data = data[:UDP_SNAP_LENGTH]
        outgoing = address[2] == socket.PACKET_OUTGOING
        return Frame(time_ns, self.point.node, self.point.interface, outgoing, data, length)

    def dropped(self) -> int:
        """Frames dropped for want of buffer since the last call."""
        _seen, dropped = _STATISTICS.unpack(self.ins.getsockopt(SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(dropped)


@contextmanager
def compiled(expression: str) -> Iterator[bpf_program]:
    """A filter in tcpdump's language as a program for Ethernet, compiled by libpcap, for the length of the block."""
    program = compile_filter(expression, linktype=DLT_EN10MB)
    try:
        yield program
    finally:
        free_filter(program)


def await_timestamps(patience_s: float = 5.0) -> None:
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


def _is_udp(data: bytes) -> bool:
    """Whether an Ethernet frame is UDP over IPv4 or IPv6."""
    if data[12:14] == b"\x08\x00":
        return data[23:24] == bytes([socket.IPPROTO_UDP])
    return data[12:14] == b"\x86\xdd" and data[20:21] == bytes([socket.IPPROTO_UDP])


def _nanoseconds(timespec: bytes) -> int:
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return int(seconds * 1_000_000_000 + nanoseconds)
