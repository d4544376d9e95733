"""The edge's part of `punch.reflexive`: its IPv6 address, and proofs of the IPv6 addresses at which it sees clients."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Sequence

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from punchlab.punch.codec import encode
from punchlab.punch.edge.connection import EdgeConnection
from punchlab.punch.endpoint import WILDCARDS, Endpoint
from punchlab.punch.errors import RefusedError
from punchlab.punch.frames import Register
from punchlab.punch.net.sockets import source_address
from punchlab.punch.reflexive import HEADER, Seen

LINGER_S = 10.0
_SOMEWHERE = Endpoint("2001:4860:4860::8888", 53)  # any global address; nothing is sent to it
_MAC_DIGITS = 32


class ReflexiveAddresses:
    """Announces the edge's IPv6 address among `addresses` to clients that use IPv4, and issues proofs.

    A proof is valid for `lifetime_s` seconds. `clock` returns seconds.
    """

    def __init__(
        self, addresses: Sequence[Endpoint], lifetime_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._lifetime_s = lifetime_s
        self._clock = clock
        self.at = _shown(addresses)

    def process_response(self, connection: ServerConnection, _request: Request, response: Response) -> None:
        """Add the edge's IPv6 endpoint to the response for a client that connects over IPv4."""
        address = connection.remote_address
        if self.at is not None and address is not None and Endpoint.of(address).family == socket.AF_INET:
            response.headers[HEADER] = str(self.at)

    async def serve(self, connection: EdgeConnection, public: Endpoint) -> None:
        """Send a client its IPv6 endpoint `public` and the proof. Raises `RefusedError`."""
        if public.family != socket.AF_INET6:
            raise RefusedError("expected a connection over IPv6")
        await connection.send_or_cut(encode(Seen(public, self.proof(public))))
        async with asyncio.timeout(LINGER_S):
            await connection.wait_closed()

    def proof(self, public: Endpoint) -> str:
        """Return a proof that this edge sees a client at `public` now."""
        now = int(self._clock())
        return f"{now:016x}{self._mac(now, public)}"

    def confirmed(self, register: Register, public: Endpoint) -> Endpoint | None:
        """Return the IPv6 endpoint that a client at `public` registers, or None without a valid proof."""
        named, proof = register.public6, register.proof6
        if named is None or proof is None or public.family != socket.AF_INET or not self.confirms(named, proof):
            return None
        return named

    def confirms(self, public: Endpoint, proof: str) -> bool:
        """Return whether this edge issued the proof for that endpoint, and the proof is still valid."""
        try:
            made = int(proof[:-_MAC_DIGITS], 16)
        except ValueError:
            return False
        genuine = hmac.compare_digest(proof[-_MAC_DIGITS:], self._mac(made, public))
        return genuine and self._clock() - made <= self._lifetime_s

    def _mac(self, made: int, public: Endpoint) -> str:
        return hmac.digest(self._key, f"{made} {public}".encode(), "sha256").hex()[:_MAC_DIGITS]


def _shown(addresses: Sequence[Endpoint]) -> Endpoint | None:
    """Return the first IPv6 address; for the wildcard address, the source address towards the Internet, if there is
    one."""
    for each in addresses:
        if each.family != socket.AF_INET6:
            continue
        if each.ip not in WILDCARDS:
            return each
        try:
            return Endpoint(source_address(_SOMEWHERE), each.port)
        except OSError:
            continue
    return None
