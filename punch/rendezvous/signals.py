"""Encrypted messages between two clients that know each other's contacts and are not connected yet, through the edges.

Each signal has a number and is encrypted with a key per direction, derived from the session key. An edge can drop or
delay it, but neither read nor forge it. A signal is delivered at most once; the order is not guaranteed.

A signal tests a guess of the code as a proof does (`punch.secure.guesses`). So the first signal is charged to the
budget of guesses. A client that receives the peer's first signal before it has sent one answers at once, to confirm it.
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
"""Maximum payload of one signal: without its number, its kind and its tag."""

_NUMBER_BYTES = 4
_MESSAGE, _ANSWER = b"\x01", b"\x02"  # kinds: a message of a strategy, and the answer to the first one


class Signals:
    """The signals of one client, sent over its rendezvous while that is connected. Always `close` it."""

    def __init__(
        self, rendezvous: Rendezvous, role: Role, session_key: Callable[[], Awaitable[bytes]], exposure: Exposure
    ) -> None:
        self._rendezvous, self._role = rendezvous, role
        self._session_key, self._exposure = session_key, exposure
        self._sent = 0
        self._seen: set[int] = set()
        self._received: asyncio.Queue[bytes | SignalError | TamperedError] = asyncio.Queue(MAX_SIGNALS)
        self._receiving: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Send a signal to the peer. Raises `SignalError` if the edge is lost, `ValueError` if `data` is too long."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"a signal of {len(data)} bytes; expected at most {MAX_BYTES}")
        self._start()
        await self._send(_MESSAGE + data)

    async def receive(self) -> bytes:
        """Return the next signal. Raises `SignalError`, and `TamperedError` for one that is not the peer's."""
        self._start()
        signal = await self._received.get()
        if isinstance(signal, SignalError):
            self._received.put_nowait(signal)  # it stays the result of all further calls
        if isinstance(signal, Exception):
            raise signal
        return signal

    async def close(self) -> None:
        """Stop receiving."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)

    def _start(self) -> None:
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._receive_all())

    async def _receive_all(self) -> None:
        """Put received signals into the queue."""
        while True:
            try:
                signal = await self._next()
                if not self._sent:
                    await self._send(_ANSWER)
            except TamperedError as error:
                self._exposure.refute()
                await self._received.put(error)
            except SignalError as error:
                await self._received.put(error)
                return
            else:
                if signal.startswith(_MESSAGE):
                    await self._received.put(signal[1:])

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
