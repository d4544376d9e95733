"""The wire format of nfnetlink_queue (include/uapi/linux/netfilter/nfnetlink_queue.h): bind a queue, read packets, give
verdicts. Only struct and socket: the engine process imports it and must start at once.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

NF_DROP, NF_ACCEPT, NF_REPEAT = 0, 1, 4
RECEIVE_BUFFER = 1 << 24

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 3 << 8
_PACKET, _VERDICT, _CONFIG, _VERDICT_BATCH = (_SUBSYSTEM | kind for kind in range(4))
_NLMSG_ERROR, _NLM_F_REQUEST, _NLM_F_ACK = 2, 1, 4
_SOL_NETLINK, _NETLINK_NO_ENOBUFS, _SO_RCVBUFFORCE = 270, 5, 33

_CFG_CMD, _CFG_PARAMS, _CFG_QUEUE_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND, _COPY_META, _COPY_PACKET, _FLAG_GSO = 1, 1, 2, 4
_NFQA_VERDICT_HDR, _NFQA_MARK, _NFQA_PAYLOAD, _NFQA_CAP_LEN = 2, 3, 10, 13

_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg
_KIND = struct.Struct("=H")
_ATTRIBUTE = struct.Struct("=HH")
_PACKET_ID = struct.Struct(">I")
_PACKET_ID_OFFSET = _HEADER.size + _ATTRIBUTE.size
_VERDICT_MESSAGE = struct.Struct("=IHHIIBBHHHII")


def open_queue(number: int, *, lengths: bool, whole: bool, payload: int = 0) -> socket.socket:
    """A socket that owns queue `number` of this thread's network namespace; closing it drops what the queue holds.

    `lengths`: packets tell their length. `payload`: they come with so many of their first bytes. `whole`: segments come
    as one big (GSO) packet, which is cheaper, instead of being cut to wire size. Raises OSError.
    """
    queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        queue.bind((0, 0))
        try:
            queue.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # root of a user namespace only
            queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        queue.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        copied = _COPY_PACKET if lengths or payload else _COPY_META
        # One byte of copy is the least that makes the kernel tell the length (NFQA_CAP_LEN).
        body = (
            _attribute(_CFG_CMD, struct.pack(">BBH", _CMD_BIND, 0, socket.AF_INET))
            + _attribute(_CFG_PARAMS, struct.pack(">IB", max(payload, 1), copied))
            + _attribute(_CFG_QUEUE_MAXLEN, struct.pack(">I", 0xFFFFFFFF))  # the engine keeps the limit
            + _attribute(_CFG_FLAGS, struct.pack(">I", _FLAG_GSO if whole else 0))
            + _attribute(_CFG_MASK, struct.pack(">I", _FLAG_GSO))
        )
        length = _HEADER.size + len(body)
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        queue.send(_HEADER.pack(length, _CONFIG, flags, 0, 0, socket.AF_UNSPEC, 0, socket.htons(number)) + body)
        answer = queue.recv(4096)
        _, kind, *_ = _MESSAGE.unpack_from(answer)
        (code,) = struct.unpack_from("=i", answer, _MESSAGE.size)
        if kind != _NLMSG_ERROR or code:
            raise OSError(-code, f"NFQUEUE {number}: {os.strerror(-code)}")
    except BaseException:
        queue.close()
        raise
    return queue


def packet_id(buffer: bytearray) -> int | None:
    """The id of the packet in a message (the kernel puts NFQA_PACKET_HDR first); None when it is not about a packet.

    Such is the error for a verdict that came too late: the packet's interface went down.
    """
    if _KIND.unpack_from(buffer, 4)[0] != _PACKET:
        return None
    return int(_PACKET_ID.unpack_from(buffer, _PACKET_ID_OFFSET)[0])


def packet_length(buffer: bytearray, size: int) -> int:
    """The length of the IP packet in a message of `size` bytes; for queues opened with `lengths`."""
    length = _found(buffer, size, _NFQA_CAP_LEN)
    if length is None:
        raise ValueError("NFQUEUE: a packet without its length")
    return int(_PACKET_ID.unpack(length)[0])


def packet_payload(buffer: bytearray, size: int) -> bytes:
    """The first bytes of the IP packet in a message of `size` bytes; for queues opened with `payload`."""
    return _found(buffer, size, _NFQA_PAYLOAD) or b""


def verdicts(number: int, verdict: int, packet_ids: Iterable[int]) -> bytes:
    """Messages that decide each of these packets of queue `number`."""
    return b"".join(_verdict(_VERDICT, number, verdict, identity) for identity in packet_ids)


def accept_up_to(number: int, packet_id: int) -> bytes:
    """A message that accepts every packet that queue `number` holds up to this one."""
    return _verdict(_VERDICT_BATCH, number, NF_ACCEPT, packet_id)


def repeat(number: int, packet_id: int, mark: int) -> bytes:
    """A message that sends one packet through its chain again, from the start, with this mark."""
    body = _attribute(_NFQA_VERDICT_HDR, struct.pack(">II", NF_REPEAT, packet_id))
    body += _attribute(_NFQA_MARK, struct.pack(">I", mark))
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, _VERDICT, _NLM_F_REQUEST, 0, 0, socket.AF_UNSPEC, 0, socket.htons(number)) + body


def _found(buffer: bytearray, size: int, wanted: int) -> bytes | None:
    offset = _HEADER.size
    while offset < size:
        length, kind = _ATTRIBUTE.unpack_from(buffer, offset)
        if kind == wanted:
            return bytes(buffer[offset + _ATTRIBUTE.size : offset + length])
        offset += (length + 3) & ~3
    return None


def _verdict(kind: int, number: int, verdict: int, identity: int) -> bytes:
    return _VERDICT_MESSAGE.pack(
        _VERDICT_MESSAGE.size,
        kind,
        _NLM_F_REQUEST,
        0,
        0,
        socket.AF_UNSPEC,
        0,
        socket.htons(number),
        12,
        _NFQA_VERDICT_HDR,
        socket.htonl(verdict),
        socket.htonl(identity),
    )


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)
