"""Write recordings as pcapng files with scapy, for Wireshark, and read them."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, cast

from scapy.config import conf
from scapy.data import DLT_EN10MB
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter

from punchlab.lab.capture.frame import Frame, Recording
from punchlab.lab.errors import InputError
from punchlab.lab.kernel.folder import Folder

_EPB_FLAGS, _DIRECTION, _INBOUND, _OUTBOUND = 2, 3, 1, 2  # bits 0 and 1
_IF_NAME, _IF_TSRESOL, _END_OF_OPTIONS = 2, 9, 0
_NANOSECONDS = 9  # if_tsresol: 10**-9 s
_SECTION_TYPE, _MAGIC, _BLOCK_HEAD = b"\x0a\x0d\x0d\x0a", b"\x1a\x2b\x3c\x4d", 8
_INTERFACE, _INTERFACE_SIZE = "HHI", 8
_PACKET, _PACKET_SIZE = "IIIII", 20
_LONGEST_BLOCK = 1 << 24
"""The maximum valid block length; no memory is allocated for more."""


class _Block(IntEnum):
    INTERFACE, OLD_PACKET, SIMPLE_PACKET, PACKET, SECTION = 1, 2, 3, 6, 0x0A0D0D0A


class _Bytes(Raw):
    """A frame to write without dissection, which takes a hundred times as long as writing."""


conf.l2types.register_layer2num(DLT_EN10MB, _Bytes)


class _Writer(PcapNgWriter):
    """scapy's writer, with nanosecond timestamps and with all interfaces described and named at the start of the
    file.
    """

    def __init__(self, file: BinaryIO, interfaces: tuple[str, ...]) -> None:
        super().__init__(os.devnull)  # scapy opens a path
        self.f.close()
        self.f = file
        self.linktype, self.tsresol = DLT_EN10MB, 10**_NANOSECONDS
        self.interfaces2id = {name.encode(): number for number, name in enumerate(interfaces)}

    def _write_header(self, pkt: Packet | bytes | None) -> None:  # noqa: ARG002 -- scapy's signature
        self.header_present = True
        self._write_block_shb()
        for name in self.interfaces2id:
            assert name is not None
            self._write_block_idb(self.linktype, name)

    def _write_block_idb(self, linktype: int, ifname: bytes | None = None) -> None:
        assert ifname is not None
        options = struct.pack("<HH", _IF_NAME, len(ifname)) + self._add_padding(ifname)
        options += struct.pack("<HHB3x", _IF_TSRESOL, 1, _NANOSECONDS) + struct.pack("<HH", _END_OF_OPTIONS, 0)
        body = struct.pack("<HHI", linktype, 0, 1 << 18)
        self.f.write(self.build_block(struct.pack("<I", 1), body, options=options))


def write(path: Path, recording: Recording) -> None:
    """Write the recording to a file, atomically (`lab.kernel.folder`). Raises OSError."""
    with Folder.open(path.parent) as folder:
        folder.replace(path.name, encoded(recording))


def encoded(recording: Recording) -> bytes:
    """Return the content of the recording's file."""
    content = io.BytesIO()
    writer = _Writer(content, recording.interfaces)
    writer.write_header(None)
    for frame in recording.frames:
        packet = _Bytes(frame.data)
        packet.sniffed_on = frame.interface
        packet.direction = _OUTBOUND if frame.outgoing else _INBOUND
        seconds = Decimal(frame.time_ns).scaleb(-_NANOSECONDS)  # a float has a resolution of only 240 ns
        writer.write_packet(packet, sec=cast("float", seconds), wirelen=frame.length)
    return content.getvalue()


def read(path: Path) -> Recording:
    """Return the recording in a file, without drops and clock offset, which pcapng does not store.

    A frame's node is its interface's name up to the last hyphen, as in Mininet's names ("nat_a-eth1"). Files of other
    tools are accepted if each interface has a name and the link type Ethernet. Raises `InputError` for any other file
    or a truncated one, OSError if it cannot be read.
    """
    frames: list[Frame] = []
    names: dict[str, None] = {}
    with path.open("rb") as file:
        try:
            for found in _parsed(file):
                if isinstance(found, Frame):
                    frames.append(found)
                else:
                    names[found] = None
        except _MalformedError as error:
            raise InputError("capture", str(path), f"a pcapng file with named interfaces ({error})") from None
    return Recording(tuple(frames), tuple(names))


class _MalformedError(Exception):
    pass


def _parsed(file: BinaryIO) -> Iterator[Frame | str]:
    """Yield the frames of a file, and the names of interfaces at their descriptions."""
    interfaces: list[tuple[str, int]] = []
    for order, kind, body in _blocks(file):
        match kind:
            case _Block.SECTION:
                interfaces = []
            case _Block.INTERFACE:
                interfaces.append(_interface(order, body))
                yield interfaces[-1][0]
            case _Block.PACKET:
                yield _frame(order, body, interfaces)
            case _Block.OLD_PACKET | _Block.SIMPLE_PACKET:
                raise _MalformedError("a packet has no time or no interface")


def _blocks(file: BinaryIO) -> Iterator[tuple[str, int, bytes]]:
    """Yield byte order, type and body of each block."""
    order = ""
    while head := file.read(_BLOCK_HEAD):
        if head[:4] == _SECTION_TYPE:
            magic = file.read(4)
            order = {_MAGIC: ">", _MAGIC[::-1]: "<"}.get(magic, "")
            head += magic
        if not order:
            raise _MalformedError("the file does not begin with a section header")
        kind, length = struct.unpack_from(f"{order}II", head.ljust(_BLOCK_HEAD, b"\0"))
        if length % 4 or not len(head) + 4 <= length <= _LONGEST_BLOCK:
            raise _MalformedError(f"a block has {length} bytes")
        body = head[_BLOCK_HEAD:] + file.read(length - len(head))
        if len(body) != length - _BLOCK_HEAD:
            raise _MalformedError("the file is truncated in a block")
        if struct.unpack_from(f"{order}I", body, len(body) - 4) != (length,):
            raise _MalformedError("the two lengths of a block differ")
        yield order, kind, body[:-4]
    if not order:
        raise _MalformedError("the file is empty")


def _interface(order: str, body: bytes) -> tuple[str, int]:
    """Return the name of the interface and its time units per second."""
    if len(body) < _INTERFACE_SIZE:
        raise _MalformedError("an interface description is truncated")
    linktype, _reserved, _longest = struct.unpack_from(f"{order}{_INTERFACE}", body)
    options = _options(order, body[_INTERFACE_SIZE:])
    resolution = options.get(_IF_TSRESOL, b"\x06")
    if linktype != DLT_EN10MB or _IF_NAME not in options or len(resolution) != 1:
        raise _MalformedError("an interface has no name or is not Ethernet")
    try:
        name = options[_IF_NAME].rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise _MalformedError("the name of an interface is not UTF-8") from None
    exponent = resolution[0] & 0x7F
    return name, 2**exponent if resolution[0] & 0x80 else 10**exponent


def _frame(order: str, body: bytes, interfaces: Sequence[tuple[str, int]]) -> Frame:
    if len(body) < _PACKET_SIZE:
        raise _MalformedError("a packet is truncated")
    number, high, low, kept, length = struct.unpack_from(f"{order}{_PACKET}", body)
    if number >= len(interfaces) or kept > len(body) - _PACKET_SIZE:
        raise _MalformedError("a packet has no interface, or more bytes than its block")
    name, units = interfaces[number]
    data = body[_PACKET_SIZE : _PACKET_SIZE + kept]
    options = _options(order, body[_PACKET_SIZE + kept + -kept % 4 :])
    flags = int.from_bytes(options.get(_EPB_FLAGS, b""), "little" if order == "<" else "big")
    time_ns = ((high << 32) + low) * 10**_NANOSECONDS // units
    return Frame(time_ns, name.rpartition("-")[0], name, flags & _DIRECTION == _OUTBOUND, data, length)


def _options(order: str, data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(f"{order}HH", data, at)
        if code == _END_OF_OPTIONS:
            break
        if at + 4 + length > len(data):
            raise _MalformedError("an option is truncated")
        found.setdefault(code, data[at + 4 : at + 4 + length])
        at += 4 + length + -length % 4
    return found
