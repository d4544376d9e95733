"""What two clients that know each other, and are not connected yet, say to each other through the edges.

Each signal is sealed with a key of its direction, derived from the session key, and numbered: an edge can hold it back
and no more. Each comes at most once; nothing is promised about their order.

A sealed signal tests a guess of the code as a proof does (`punch.secure.guesses`). So the first one is drawn from the
budget, and who gets the peer's first one before anything of its own is out answers at once, which confirms it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punchlab.punch.errors import SignalError, TamperedError, WrongPeerError
from punchlab.punch.frames import MAX_SIGNAL, MAX_SIGNALS, Role
from punchlab.punch.rendezvous.connection import Rendezvous
from punchlab.punch.secure.guesses import Exposure

MAX_BYTES = MAX_SIGNAL // 4 * 3 - 4 - 1 - 16
"""Of one signal: without its number, its kind and its tag."""

_NUMBER_BYTES = 4
_SAID, _HEARD = b"\x01", b"\x02"  # the kinds: of a strategy, and the answer to the first one


class Signals:
    """The signals of one client, which travel by its rendezvous as long as that is connected. Always `close` it."""

    def __init__(
        self, rendezvous: Rendezvous, role: Role, session_key: Callable[[], Awaitable[bytes]], exposure: Exposure
    ) -> None:
        self._rendezvous, self._role = rendezvous, role
        self._session_key, self._exposure = session_key, exposure
        self._sent = 0
        self._seen: set[int] = set()
        self._heard: asyncio.Queue[bytes | SignalError | TamperedError] = asyncio.Queue(MAX_SIGNALS)
        self._hearing: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Say something to the peer. Raises `SignalError` when the edge is gone, `ValueError` for too much."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes are more than the {MAX_BYTES} of a signal")
        self._listen()
        await self._send(_SAID + data)

    async def receive(self) -> bytes:
        """The next thing that the peer says. Raises `SignalError`, and `TamperedError` for what the peer never said."""
        self._listen()
        said = await self._heard.get()
        if isinstance(said, SignalError):
            self._heard.put_nowait(said)  # nothing will follow
        if isinstance(said, Exception):
            raise said
        return said

    async def close(self) -> None:
        """Stop listening."""
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)

    def _listen(self) -> None:
        if self._hearing is None:
            self._hearing = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        """Put what comes into the queue."""
        while True:
            try:
                said = await self._next()
                if not self._sent:
                    await self._send(_HEARD)
            except TamperedError as error:
                self._exposure.refute()
                await self._heard.put(error)
            except SignalError as error:
                await self._heard.put(error)
                return
            else:
                if said.startswith(_SAID):
                    await self._heard.put(said[1:])

    async def _send(self, data: bytes) -> None:
        cipher = await self._cipher(self._role)
        try:
            await self._exposure.signal()
        except WrongPeerError as error:
            raise SignalError(str(error)) from None
        number = self._sent
        self._sent += 1
        sealed = cipher.encrypt(number.to_bytes(12, "big"), data, None)
        await self._rendezvous.send_signal(base64.b64encode(number.to_bytes(_NUMBER_BYTES, "big") + sealed).decode())

    async def _next(self) -> bytes:
        while True:
            text = await self._rendezvous.next_signal()
            cipher = await self._cipher("receiver" if self._role == "sender" else "sender")
            try:
                raw = base64.b64decode(text, validate=True)
                number = int.from_bytes(raw[:_NUMBER_BYTES], "big")
                data = cipher.decrypt(number.to_bytes(12, "big"), raw[_NUMBER_BYTES:], None)
            except (InvalidTag, binascii.Error, ValueError):
                raise TamperedError("a signal does not authenticate") from None
            self._exposure.confirm()
            if number not in self._seen:
                self._seen.add(number)
                return data

    async def _cipher(self, origin: Role) -> ChaCha20Poly1305:
        try:
            key = await self._session_key()
        except WrongPeerError as error:
            raise SignalError(str(error)) from None
        purpose = f"punch signals of the {origin}".encode()
        return ChaCha20Poly1305(HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key))
