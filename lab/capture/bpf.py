"""Capture filters in libpcap's filter language, compiled by libpcap.

scapy can also compile them, but its import takes as much CPU as building a lab and running a trial in it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import struct

from punchlab.lab.errors import LabError

_INSTRUCTION = struct.Struct("@HBBI")  # struct sock_filter
_ETHERNET, _SNAP_LENGTH, _ANY_NETMASK = 1, 65535, 0xFFFFFFFF  # DLT_EN10MB, PCAP_NETMASK_UNKNOWN
_NAMES = ("libpcap.so.0.8", "libpcap.so.1")
"""The names of the library in Debian and in other distributions."""


class _Program(ctypes.Structure):
    """struct bpf_program and struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class Filter:
    """A compiled filter for Ethernet frames. `program` is the value for SO_ATTACH_FILTER while the filter exists."""

    def __init__(self, instructions: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(instructions, len(instructions))
        self.instructions = instructions
        count = len(instructions) // _INSTRUCTION.size
        self.program = struct.pack("@HP", count, ctypes.addressof(self._buffer))


@functools.cache
def compiled(expression: str) -> Filter:
    """Compile a filter. Raises `LabError` without libpcap, and for an invalid expression."""
    pcap = _libpcap()
    handle = ctypes.c_void_p(pcap.pcap_open_dead(_ETHERNET, _SNAP_LENGTH))
    program = _Program()
    try:
        text = expression.encode()
        if pcap.pcap_compile(handle, ctypes.byref(program), text, 1, ctypes.c_uint32(_ANY_NETMASK)) != 0:
            raise LabError(f"capture: filter {expression!r}: {pcap.pcap_geterr(handle).decode(errors='replace')}")
        try:
            return Filter(ctypes.string_at(program.instructions or 0, program.length * _INSTRUCTION.size))
        finally:
            pcap.pcap_freecode(ctypes.byref(program))
    finally:
        pcap.pcap_close(handle)


def _libpcap() -> ctypes.CDLL:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        # This starts processes, so it is the last resort.
        found = ctypes.util.find_library("pcap")
        if found is None:
            raise LabError("capture: libpcap is not installed")
        library = ctypes.CDLL(found)
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    return library
