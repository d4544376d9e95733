"""What a confined program may do: few capabilities, and no way to gain others (no_new_privs)."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

from punchlab.lab.confinement import seccomp
from punchlab.lab.confinement.seccomp import Kind

KEPT = (
    *(0, 1, 3, 4),  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID: its own files
    *(5, 6, 7),  # CAP_KILL, CAP_SETGID, CAP_SETUID: its own processes
    *(10, 13),  # CAP_NET_BIND_SERVICE, CAP_NET_RAW: sockets of its node
)
"""The capabilities (capabilities(7)) that a client keeps."""

_CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = struct.Struct("6I")  # effective, permitted, inheritable: the first 32 of each, then the others
_NO_CORE = 1
"""A limit of 0 does not keep the kernel from piping a core to a program of the host, but this does (core(5))."""
_libc = ctypes.CDLL(None, use_errno=True)


def reduce() -> None:
    """Leave this process what a client needs. Raises OSError."""
    capability = 0
    while _prctl(_CAPBSET_DROP, capability) if capability not in KEPT else True:
        capability += 1
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(_CAPABILITIES.size)
    if _libc.capget(header, held) != 0:
        raise _last_error("capget")
    _effective, permitted, *_others = _CAPABILITIES.unpack(held.raw)
    kept = permitted & sum(1 << each for each in KEPT)
    if _libc.capset(header, _CAPABILITIES.pack(kept, kept, 0, 0, 0, 0)) != 0:
        raise _last_error("capset")
    gain_none(Kind.CLIENT)


def gain_none(kind: Kind) -> None:
    """From now on no program gives this process more privileges, and its system calls are filtered.

    Nor does it leave a core dump. Raises OSError.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, _NO_CORE))
    if not _prctl(_SET_NO_NEW_PRIVS, 1):
        raise _last_error("no_new_privs")
    seccomp.apply(kind)


def _prctl(option: int, argument: int) -> bool:
    """prctl(2); false if the kernel does not know the argument."""
    words = [ctypes.c_ulong(word) for word in (argument, 0, 0, 0)]
    if _libc.prctl(option, *words) == 0:
        return True
    if ctypes.get_errno() != errno.EINVAL:
        raise _last_error("prctl")
    return False


def _last_error(call: str) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"{call}: {os.strerror(error)}")
