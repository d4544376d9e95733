"""What two clients that know each other, and are not connected yet, say to each other through the edges.

Each signal is sealed with a key of its direction, derived from the session key, and numbered: an edge can hold it back
and no more. Each comes at most once; nothing is promised about their order.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punch.client.rendezvous import Rendezvous
from punch.errors import SignalError, TamperedError, WrongPeerError
from punch.frames import MAX_SIGNAL, Role

MAX_BYTES = MAX_SIGNAL // 4 * 3 - 4 - 16
"""Of one signal: without its number and its tag."""

_NUMBER_BYTES = 4


class Signals:
    """The signals of one client, which travel by its rendezvous as long as that is connected."""

    def __init__(self, rendezvous: Rendezvous, role: Role, session_key: Callable[[], Awaitable[bytes]]) -> None:
        self._rendezvous, self._role = rendezvous, role
        self._session_key = session_key
        self._sent = 0
        self._seen: set[int] = set()

    async def send(self, data: bytes) -> None:
        """Say something to the peer. Raises `SignalError` when the edge is gone, `ValueError` for too much."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes are more than the {MAX_BYTES} of a signal")
        number = self._sent
        self._sent += 1
        sealed = (await self._cipher(self._role)).encrypt(number.to_bytes(12, "big"), data, None)
        await self._rendezvous.send_signal(base64.b64encode(number.to_bytes(_NUMBER_BYTES, "big") + sealed).decode())

    async def receive(self) -> bytes:
        """The next thing that the peer says. Raises `SignalError`, and `TamperedError` for what the peer never said."""
        while True:
            text = await self._rendezvous.next_signal()
            try:
                raw = base64.b64decode(text, validate=True)
                number = int.from_bytes(raw[:_NUMBER_BYTES], "big")
                cipher = await self._cipher("receiver" if self._role == "sender" else "sender")
                data = cipher.decrypt(number.to_bytes(12, "big"), raw[_NUMBER_BYTES:], None)
            except (InvalidTag, binascii.Error, ValueError):
                raise TamperedError("a signal does not authenticate") from None
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
