"""The toy's edge: introduces two hosts by the addresses that it sees, and passes on what they send.

TCP: a host writes "CODE ROLE INDEX WORDS"; with both roles there, each gets "IP PORT WORDS" of the other, and from then
on their connections are one pipe. UDP: the same as datagrams "H CODE ROLE", "P IP PORT"; "R..." goes to the other host.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_PKTINFO = 8  # IP_PKTINFO in linux/in.h
_WAITING: dict[tuple[str, str], tuple[str, socket.socket, str]] = {}
_LOCK = threading.Lock()


def serve(endpoints: list[str], ready: Callable[[], None]) -> None:
    """Listen on TCP at each endpoint and on UDP at the first, for ever."""
    for number, endpoint in enumerate(endpoints):
        host, _, port = endpoint.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), int(port)), family=family)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        if number == 0:
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.setsockopt(socket.IPPROTO_IP, _PKTINFO, 1)
            datagrams.bind((host, int(port)))
    ready()
    _introduce_datagrams(datagrams)


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _address = listener.accept()
        threading.Thread(target=_introduce, args=(connection,), daemon=True).start()


def line(connection: socket.socket) -> str:
    """The next line, without a byte more; empty at the end of the stream."""
    text = b""
    while not text.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return ""
        text += byte
    return text.decode().strip()


def _introduce(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        code, role, index, words = line(connection).split(" ", 3)
        with _LOCK:
            waiting = _WAITING.get((code, index))
            if waiting is None or waiting[0] == role:
                _WAITING[code, index] = (role, connection, words)
                return
            del _WAITING[code, index]
        _role, other, other_words = waiting
        for one, peer, theirs in ((connection, other, other_words), (other, connection, words)):
            ip, port = peer.getpeername()[:2]
            one.sendall(f"{ip} {port} {theirs}\n".encode())
        for source, target in ((connection, other), (other, connection)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _introduce_datagrams(datagrams: socket.socket) -> None:
    known: dict[tuple[str, str], tuple[str, int]] = {}
    peers: dict[tuple[str, int], tuple[str, int]] = {}
    while True:
        data, ancillary, _flags, address = datagrams.recvmsg(2048, 256)
        # An answer comes from the address that was asked, which need not be this host's first one.
        source = [(socket.IPPROTO_IP, _PKTINFO, bytes(4) + content[4:8] + bytes(4)) for *_kind, content in ancillary]
        with contextlib.suppress(OSError, ValueError):
            if data.startswith(b"R"):
                datagrams.sendmsg([data], source, 0, peers[address])
            elif data.startswith(b"H"):
                _h, code, role = data.decode().split()
                known[code, role] = address
                other = known.get((code, "receive" if role == "send" else "send"))
                if other is not None:
                    peers[address], peers[other] = other, address
                    datagrams.sendmsg([f"P {other[0]} {other[1]}".encode()], source, 0, address)
