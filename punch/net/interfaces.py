"""The addresses of this computer with their networks, from RTM_GETADDR of rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

_RTM_NEWADDR, _RTM_GETADDR = 20, 22  # linux/rtnetlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3  # linux/netlink.h
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # linux/if_addr.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_BUFFER = 65536

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class InterfaceAddress(NamedTuple):
    """One address of this computer: the index of its interface, and the directly connected network."""

    ip: str
    interface: int
    network: Network


def addresses() -> list[InterfaceAddress]:
    """Return all addresses of this network namespace. Raises `OSError`."""
    found: list[InterfaceAddress] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, flags, 1, 0) + body)
        while True:
            data = memoryview(sock.recv(_BUFFER))
            while data:
                length, kind, *_rest = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise OSError(number, "the kernel cannot list the addresses of this computer")
                if kind == _RTM_NEWADDR and (read := _read(data[_HEADER.size : length])) is not None:
                    found.append(read)
                data = data[-(-length // 4) * 4 :]


def _read(message: memoryview) -> InterfaceAddress | None:
    family, prefix_length, _flags, _scope, interface = _ADDRESS.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    values: dict[int, bytes] = {}
    rest = message[_ADDRESS.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        values[kind] = bytes(rest[_ATTRIBUTE.size : length])
        rest = rest[-(-length // 4) * 4 :]
    # On a point-to-point link IFA_ADDRESS is the other end's address, to which the prefix length applies.
    packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
    if packed is None:
        return None
    ip = ipaddress.ip_address(packed)
    reached = ipaddress.ip_address(values.get(_IFA_ADDRESS, packed))
    return InterfaceAddress(str(ip), interface, ipaddress.ip_network((reached, prefix_length), strict=False))
