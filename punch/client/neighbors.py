"""Host candidates that only the peer itself can name: hosts of one carrier's network, and clients of one computer.

A client dials a host candidate only in its own networks (`punch.net.reach`), for it gets them from the edge. Two kinds
of honest pairs need others: two customers of a carrier whose NAT does not hairpin, where one is at an address of the
carrier's inside (100.64.0.0/10, RFC 6598), and two clients on one computer that meet at an edge elsewhere. There each
sends its own address to the other as a signal (`punch.rendezvous.signals`), which the edge can neither read nor make,
and each dials what the other has sent. Nothing else is dialled because of this: an address of the carrier's inside, or
this computer's own address if the peer proves that it runs on this computer.

It takes as long as a signal from client to client, comes before the first dial, and only where both are behind one
public address and have named such addresses.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import os
from collections.abc import Callable
from pathlib import Path

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, SignalError, TamperedError
from punchlab.punch.frames import Contact, SessionId
from punchlab.punch.net.reach import SHARED
from punchlab.punch.net.sockets import LOWEST_PORT
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.rendezvous.signals import Signals

PATIENCE_S = 1.5
"""How long the peer's signal is waited for."""

_KIND = "host"


def concerned(own: Endpoint, own_public: Endpoint, peer: Contact) -> bool:
    """Whether both clients have to name their addresses to each other: the same on both sides."""
    if own.is_loopback or own_public.ip != peer.public.ip:
        return False
    return own.ip in {each.ip for each in peer.private} or any(map(_is_shared, (own, *peer.private)))


async def named_by_peer(
    own: Endpoint, session: SessionId, signals: Signals, begin_key: Callable[[], None]
) -> Candidate | None:
    """Exchange the addresses; the peer's, if it may be dialled although it is in none of this computer's networks."""
    begin_key()
    computer = await asyncio.to_thread(_computer, session)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await signals.send(json.dumps([_KIND, str(own), computer]).encode())
            named, peer_computer = _parse(await signals.receive())
    except (SignalError, TamperedError, TimeoutError, ValueError):
        return None
    if named == own or named.port < LOWEST_PORT:
        return None
    allowed = peer_computer == computer if named.ip == own.ip else _is_shared(named)
    return Candidate(named, "private") if allowed else None


def _parse(data: bytes) -> tuple[Endpoint, str]:
    """Raises `ValueError`."""
    try:
        kind, address, computer = json.loads(data)
    except (TypeError, RecursionError):
        raise ValueError("not an address") from None
    if kind != _KIND or not isinstance(address, str) or not isinstance(computer, str):
        raise ValueError("not an address")
    try:
        return Endpoint.parse(address), computer
    except ArgumentError as error:
        raise ValueError(str(error)) from None


def _is_shared(address: Endpoint) -> bool:
    ip = ipaddress.ip_address(address.ip)
    return ip.version == SHARED.version and ip in SHARED


def _computer(session: SessionId) -> str:
    """What is the same for all processes of this boot and network namespace, and for nobody else; per session."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 (the link's target has no path)
    return hashlib.sha256(f"{session} {boot} {namespace}".encode()).hexdigest()[:32]
