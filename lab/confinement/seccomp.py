"""The filter of system calls of confined programs, in classic BPF (seccomp(2)).

Capabilities and read-only mounts refuse most of what a program must not do. The filter refuses what neither covers: the
keyrings, which no namespace separates; user namespaces, in which a program has all capabilities again; sockets that do
not belong to the network namespace, such as those of a virtual machine to its host, and those for which the kernel
loads modules; leases, for which all other programs have to wait; keystrokes into a terminal; and parts of the kernel
that many exploits needed and no network program does. The rules follow those of container engines.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; the low half of an argument comes first
_X32 = 0x40000000
_CLONE_NEWUSER, _CLONE_NEWCGROUP = 0x10000000, 0x02000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_BRIDGES_AND_VLANS = (0x8940, 0x8941, 0x8982, 0x8983)  # SIOCGIFBR, SIOCSIFBR, SIOCGIFVLAN, SIOCSIFVLAN load modules
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _AF_PACKET = 1, 2, 10, 16, 17
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _TYPE_BITS = 1, 2, 3, 0xF
_STREAM_PROTOCOLS = (0, 6, 262)  # the default, TCP, MPTCP
_DATAGRAM_PROTOCOLS = (0, 17, 1, 58)  # the default, UDP, ICMP, ICMPv6
_NETLINK_PROTOCOLS = (0, 4)  # NETLINK_ROUTE, NETLINK_SOCK_DIAG: addresses and routes, and sockets, of the node
_LEASES = (1024, 1026, 1039, 1040)  # F_SETLEASE, F_NOTIFY, F_GETDELEG, F_SETDELEG
_libc = ctypes.CDLL(None, use_errno=True)


class Kind(Enum):
    """Who is filtered: a client in its node, or a command in a sandbox, which builds labs."""

    CLIENT = "client"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class _Machine:
    """An architecture: its AUDIT_ARCH, the number of seccomp(2), and those of the calls in the filter."""

    audit: int
    seccomp: int
    calls: dict[str, int]


_EVERYWHERE = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        317,
        {
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "open_by_handle_at": 304,
            "clone": 56,
            "unshare": 272,
            "socket": 41,
            "socketpair": 53,
            "fcntl": 72,
            "ioctl": 16,
            "kexec_load": 246,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        277,
        {
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "bpf": 280,
            "perf_event_open": 241,
            "userfaultfd": 282,
            "open_by_handle_at": 265,
            "clone": 220,
            "unshare": 97,
            "socket": 198,
            "socketpair": 199,
            "fcntl": 25,
            "ioctl": 29,
            "kexec_load": 104,
        },
    ),
}
_KEYRINGS = ("add_key", "request_key", "keyctl")
_KERNEL = (
    *("bpf", "perf_event_open", "userfaultfd", "open_by_handle_at", "kexec_load"),
    # It does what other system calls do, where no filter sees it.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
)


@functools.cache
def program(machine: str, kind: Kind) -> bytes | None:
    """The filter for a machine (as `os.uname` names it): an array of struct sock_filter; None for other machines."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    calls = known.calls | _EVERYWHERE
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.audit),
        _refuse(errno.ENOSYS),  # programs of another architecture have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for name in (*_KEYRINGS, *_KERNEL):
        code += _rule(calls[name], [_refuse(errno.EPERM)])
    spaces = _CLONE_NEWCGROUP | (_CLONE_NEWUSER if kind is Kind.CLIENT else 0)
    for name in ("clone", "unshare"):
        code += _rule(calls[name], [_argument(0), (_ANY_BIT, 0, 1, spaces), _refuse(errno.EPERM), _accept()])
    # Its flags are in memory, where no filter can look; C libraries use clone then.
    code += _rule(calls["clone3"], [_refuse(errno.ENOSYS)])
    code += _rule(calls["socket"], _sockets(kind))
    code += _rule(calls["socketpair"], [_argument(0), *_only((_AF_UNIX,), errno.EAFNOSUPPORT)])
    requests = (_TIOCSTI, _TIOCLINUX, *(_BRIDGES_AND_VLANS if kind is Kind.CLIENT else ()))
    code += _rule(calls["ioctl"], [_argument(1), *_all_but(requests, errno.EPERM)])
    code += _rule(calls["fcntl"], [_argument(1), *_all_but(_LEASES, errno.EPERM)])
    code.append(_accept())
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def apply(kind: Kind) -> None:
    """Filter the system calls of this thread, and of what it starts, for good. Needs no_new_privs. Raises OSError."""
    machine = os.uname().machine
    code = program(machine, kind)
    if code is None:
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    # The processors' own protection is not changed: kernels before 5.16 would slow the program down for the filter.
    number = ctypes.c_long(_MACHINES[machine].seccomp)
    if _libc.syscall(number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_SPEC_ALLOW), argument) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")


_Instruction = tuple[int, int, int, int]


def _rule(number: int, then: list[_Instruction]) -> list[_Instruction]:
    """Apply these instructions, which end with a verdict, to the system call of that number."""
    return [(_EQUAL, 0, len(then), number), *then]


def _sockets(kind: Kind) -> list[_Instruction]:
    """The sockets that programs need; a command, which builds labs, needs all protocols of these families."""
    families = (_AF_UNIX, _AF_PACKET)
    if kind is Kind.COMMAND:
        return [_argument(0), *_only((*families, _AF_INET, _AF_INET6, _AF_NETLINK), errno.EAFNOSUPPORT)]
    internet = [
        *(_argument(1), (_AND, 0, 0, _TYPE_BITS)),
        *_rule(_SOCK_STREAM, [_argument(2), *_only(_STREAM_PROTOCOLS, errno.EPROTONOSUPPORT)]),
        *_rule(_SOCK_DGRAM, [_argument(2), *_only(_DATAGRAM_PROTOCOLS, errno.EPROTONOSUPPORT)]),
        *_only((_SOCK_RAW,), errno.ESOCKTNOSUPPORT),
    ]
    return [
        _argument(0),
        *_rule(_AF_INET, internet),
        *_rule(_AF_INET6, internet),
        *_rule(_AF_NETLINK, [_argument(2), *_only(_NETLINK_PROTOCOLS, errno.EPROTONOSUPPORT)]),
        *_only(families, errno.EAFNOSUPPORT),
    ]


def _only(values: Sequence[int], error: int) -> list[_Instruction]:
    """Accept these values of what was loaded, refuse all others."""
    return [*_skip(values), _refuse(error), _accept()]


def _all_but(values: Sequence[int], error: int) -> list[_Instruction]:
    """Refuse these values of what was loaded, accept all others."""
    return [*_skip(values), _accept(), _refuse(error)]


def _skip(values: Sequence[int]) -> list[_Instruction]:
    """For these values pass over the next instruction."""
    return [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _accept() -> _Instruction:
    return (_RETURN, 0, 0, _ALLOW)
