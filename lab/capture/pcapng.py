"""Recordings as pcapng files: written by scapy, opened by Wireshark, read back for the exchange."""

from __future__ import annotations

import os
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from scapy.config import conf
from scapy.data import DLT_EN10MB
from scapy.error import Scapy_Exception
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, RawPcapNgReader

from lab.capture.frame import Frame, Recording
from lab.errors import InputError

_INBOUND, _OUTBOUND = 1, 2  # epb_flags, bits 0 and 1
_IF_NAME, _IF_TSRESOL, _END_OF_OPTIONS = 2, 9, 0
_NANOSECONDS = 9  # if_tsresol: 10**-9 s


class _Bytes(Raw):
    """A frame on its way to the file, not dissected: that costs a hundred times the writing."""


conf.l2types.register_layer2num(DLT_EN10MB, _Bytes)


class _Writer(PcapNgWriter):
    """scapy's writer with every interface described at the start of the file, named, and nanosecond timestamps."""

    def __init__(self, path: Path, interfaces: tuple[str, ...]) -> None:
        super().__init__(os.fspath(path))
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
    """Write the recording; the file appears under its name when it is whole. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _Writer(unfinished, recording.interfaces) as writer:
            writer.write_header(None)
            for frame in recording.frames:
                packet = _Bytes(frame.data)
                packet.sniffed_on = frame.interface
                packet.direction = _OUTBOUND if frame.outgoing else _INBOUND
                seconds = Decimal(frame.time_ns).scaleb(-_NANOSECONDS)  # a float is good to 240 ns only
                writer.write_packet(packet, sec=cast("float", seconds), wirelen=frame.length)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> Recording:
    """The recording in a file that `write` made: all of it but the drops and the clock offset, which no pcapng holds.

    A frame's node is its interface's name up to the last hyphen, as Mininet names interfaces ("nat_a-eth1"). Raises
    `InputError` when the file is not a pcapng with named interfaces, OSError when it cannot be read.
    """
    frames = []
    try:
        with path.open("rb") as file:  # scapy would leave it open if it is no capture
            reader: Any = RawPcapNgReader(cast("str", file))  # takes either, says one; and is typed as a reader of pcap
            for data, about in reader:
                interface = about.ifname.decode()
                node = interface.rpartition("-")[0]
                ticks = (about.tshigh << 32) + about.tslow
                time_ns = ticks * 10**_NANOSECONDS // about.tsresol
                frames.append(Frame(time_ns, node, interface, about.direction == _OUTBOUND, data, about.wirelen))
            interfaces = tuple(options["name"].decode() for _linktype, _snaplen, options in reader.interfaces)
    except (Scapy_Exception, AttributeError, KeyError) as error:
        raise InputError("capture", str(path), "a pcapng file with named interfaces") from error
    return Recording(tuple(frames), interfaces)
