"""Connection tracking over netlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import os
import socket
import struct

from punchlab.lab.errors import LabError
from punchlab.lab.kernel.namespace import Namespace

_NETLINK_NETFILTER, _SUBSYSTEM, _DELETE = 12, 1 << 8, 2
_REQUEST_AND_ACK, _ERROR = 1 | 4, 2
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg
_ANSWER = struct.Struct("=4xH10xi")  # nlmsghdr: type; nlmsgerr: error


def forget(space: Namespace, name: str) -> None:
    """Delete all conntrack entries of the namespace. `name` is the node in error messages. Raises `LabError`."""
    with (
        space.entered(),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as channel,
    ):
        # A delete request without a tuple deletes all entries.
        channel.send(_HEADER.pack(_HEADER.size, _SUBSYSTEM | _DELETE, _REQUEST_AND_ACK, 0, 0, socket.AF_UNSPEC, 0, 0))
        kind, code = _ANSWER.unpack_from(channel.recv(4096))
    if kind != _ERROR or code:
        raise LabError(f"{name}: conntrack: {os.strerror(-code)}; run `modprobe nf_conntrack_netlink`")
