"""Host candidates that a client accepts only from the peer itself, never from an edge.

A client connects to a host candidate only within its own networks (`punch.net.reach`), because it receives host
candidates from the edge. Two cases need more. In the first, both are customers of a carrier whose NAT does not hairpin,
and one has a shared address (100.64.0.0/10, RFC 6598). In the second, both clients run on one computer and the edge
runs elsewhere. In these cases each client sends its own address to the other as a signal (`punch.rendezvous.signals`),
which the edge can neither read nor forge, and each connects to the address that it receives. The client accepts only
two kinds of address in this way: a shared address, and this computer's own address if the peer proves that it runs on
this computer.

The exchange takes as long as one signal between the clients. It precedes the first connection attempt, and only takes
place where both clients have the same public address and have registered such addresses.
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
"""How long to wait for the peer's signal, in seconds."""

_KIND = "host"


def needs_exchange(own: Endpoint, own_public: Endpoint, peer: Contact) -> bool:
    """Return whether both clients have to exchange their addresses; the result is the same on both sides."""
    if own.is_loopback or own_public.ip != peer.public.ip:
        return False
    return own.ip in {each.ip for each in peer.private} or any(map(_is_shared, (own, *peer.private)))


async def exchange_addresses(
    own: Endpoint, session: SessionId, signals: Signals, begin_key: Callable[[], None]
) -> Candidate | None:
    """Exchange the addresses; return the peer's if it may be used although it is outside this computer's networks."""
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
    return Candidate(named, "host") if allowed else None


def _parse(data: bytes) -> tuple[Endpoint, str]:
    """Return the address and the computer's identifier from a signal. Raises `ValueError`."""
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
    """Return an identifier of this boot and network namespace; it differs per session and cannot be guessed."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 (the link's target has no path)
    return hashlib.sha256(f"{session} {boot} {namespace}".encode()).hexdigest()[:32]
