"""The wire format of nfnetlink_queue: bind a queue, read packets, send verdicts.

See include/uapi/linux/netfilter/nfnetlink_queue.h. Only standard library modules, because the engine process must start
at once.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from punchlab.lab.kernel import netlink
from punchlab.lab.kernel.netlink import attribute

NF_DROP, NF_ACCEPT, NF_REPEAT = 0, 1, 4
RECEIVE_BUFFER = 1 << 24

_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG, _VERDICT_BATCH = (_SUBSYSTEM | kind for kind in range(4))
_SOL_NETLINK, _NETLINK_NO_ENOBUFS, _SO_RCVBUFFORCE = 270, 5, 33

_CFG_CMD, _CFG_PARAMS, _CFG_QUEUE_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND, _COPY_META, _COPY_PACKET, _FLAG_GSO = 1, 1, 2, 4
_NFQA_VERDICT_HDR, _NFQA_MARK, _NFQA_PAYLOAD, _NFQA_CAP_LEN = 2, 3, 10, 13

_BODY = netlink.HEADER.size + netlink.NETFILTER_HEADER.size
_KIND, _KIND_OFFSET = struct.Struct("=H"), 4
_PACKET_ID = struct.Struct(">I")
_PACKET_ID_OFFSET = _BODY + netlink.ATTRIBUTE.size
# nlmsghdr, nfgenmsg, nlattr and nfqnl_msg_verdict_hdr, packed at once for speed.
_VERDICT_MESSAGE = struct.Struct(f"{netlink.HEADER.format}BBHHHII")


def open_queue(number: int, *, lengths: bool, whole: bool, payload: int = 0) -> socket.socket:
    """Return a socket bound to queue `number` of this thread's network namespace. Closing it drops the queued packets.

    `lengths`: messages include the packet length. `payload`: messages include this many bytes of the packet. `whole`:
    TCP segments arrive as one large (GSO) packet, which is cheaper, instead of in wire size. Raises OSError.
    """
    queue = netlink.open_socket(netlink.NETFILTER)
    try:
        queue.bind((0, 0))
        try:
            queue.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # root of a user namespace
            queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        queue.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        copied = _COPY_PACKET if lengths or payload else _COPY_META
        # The kernel reports the length (NFQA_CAP_LEN) only if at least one byte is copied.
        body = (
            attribute(_CFG_CMD, struct.pack(">BBH", _CMD_BIND, 0, socket.AF_INET))
            + attribute(_CFG_PARAMS, struct.pack(">IB", max(payload, 1), copied))
            + attribute(_CFG_QUEUE_MAXLEN, struct.pack(">I", 0xFFFFFFFF))  # the engine enforces the limit
            + attribute(_CFG_FLAGS, struct.pack(">I", _FLAG_GSO if whole else 0))
            + attribute(_CFG_MASK, struct.pack(">I", _FLAG_GSO))
        )
        try:
            netlink.request(queue, _CONFIG, 0, _for_queue(number) + body)
        except OSError as error:
            raise OSError(error.errno, f"NFQUEUE {number}: {error.strerror}") from None
    except BaseException:
        queue.close()
        raise
    return queue


def packet_id(buffer: bytearray) -> int | None:
    """Return the id of the packet in a message, or None for another message. NFQA_PACKET_HDR is the first attribute.

    Another message is the error for a late verdict, after the packet's interface went down.
    """
    if _KIND.unpack_from(buffer, _KIND_OFFSET)[0] != _PACKET:
        return None
    return int(_PACKET_ID.unpack_from(buffer, _PACKET_ID_OFFSET)[0])


def packet_length(buffer: bytearray, size: int) -> int:
    """Return the length of the IP packet in a message of `size` bytes. The queue must be opened with `lengths`."""
    length = netlink.find(buffer, _BODY, size, _NFQA_CAP_LEN)
    if length is None:
        raise ValueError("NFQUEUE: the message has no packet length")
    return int(_PACKET_ID.unpack(length)[0])


def packet_payload(buffer: bytearray, size: int) -> bytes:
    """Return the first bytes of the IP packet in a message of `size` bytes. The queue must be opened with `payload`."""
    return netlink.find(buffer, _BODY, size, _NFQA_PAYLOAD) or b""


def verdicts(number: int, verdict: int, packet_ids: Iterable[int]) -> bytes:
    """Return messages with the verdict for each packet of queue `number`."""
    return b"".join(_verdict(_VERDICT, number, verdict, identity) for identity in packet_ids)


def accept_up_to(number: int, packet_id: int) -> bytes:
    """Return a message that accepts all packets of queue `number` up to this one."""
    return _verdict(_VERDICT_BATCH, number, NF_ACCEPT, packet_id)


def repeat(number: int, packet_id: int, mark: int) -> bytes:
    """Return a message that sends the packet through its chain again with this mark."""
    body = attribute(_NFQA_VERDICT_HDR, struct.pack(">II", NF_REPEAT, packet_id))
    body += attribute(_NFQA_MARK, struct.pack(">I", mark))
    return netlink.message(_VERDICT, 0, _for_queue(number) + body)


def _for_queue(number: int) -> bytes:
    return netlink.NETFILTER_HEADER.pack(socket.AF_UNSPEC, 0, socket.htons(number))


def _verdict(kind: int, number: int, verdict: int, identity: int) -> bytes:
    return _VERDICT_MESSAGE.pack(
        _VERDICT_MESSAGE.size,
        kind,
        netlink.REQUEST,
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
