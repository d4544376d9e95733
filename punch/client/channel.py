"""The encrypted, mutually authenticated channel that every punched connection has to become.

Theory of operation
-------------------
Both clients hold a session key (from SPAKE2, or from a key file) that nobody else holds. A TCP connection, on the
other hand, may lead anywhere: to the peer, to a wrong host that has the peer's private address in this network, to a
stranger that dialled our listener, or to ourselves. So each connection starts with a handshake of two fixed-length
messages in each direction, sent without waiting for one's turn (nobody is the server of a simultaneous open):

    hello   "punch/1\\n", the role ("S" or "R"), a fresh X25519 public key         41 bytes
    proof   HMAC-SHA256(confirmation key of one's role, transcript)               32 bytes

    transcript = SHA-256(session name, sender's hello, receiver's hello)
    confirmation keys and traffic keys, one per direction =
        HKDF-SHA256(X25519 secret + session key, salt = transcript)

The fresh public keys serve as the nonces of both sides: no proof of another connection fits, and a key file that is
stolen later opens no recording. The roles are in the hello, in the transcript and in the keys: a message sent back to
its sender is the wrong one, and a connection to oneself is seen at the hello. Before both proofs are checked nothing
is read but those 73 bytes, and nothing else is said.

After that, each direction is a sequence of frames:

    kind (1 byte), length (3 bytes, big-endian, at most 65,536), ChaCha20-Poly1305 ciphertext with its tag

The header is authenticated as associated data; the nonce is the number of the frame, so that frames cannot be lost,
repeated or reordered unnoticed. The last frame is FINAL: an end of the connection without it is a truncation.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import socket
from collections.abc import Awaitable, Callable
from enum import IntEnum, unique

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punch.errors import ConnectionLostError, StrangerError, TamperedError, WrongPeerError
from punch.frames import Role, SessionId

MAGIC = b"punch/1\n"
KEY_BYTES = 32
HELLO_BYTES = len(MAGIC) + 1 + KEY_BYTES
PROOF_BYTES = 32
HEADER_BYTES = 4
TAG_BYTES = 16
MAX_CIPHERTEXT = 65_536
MAX_PAYLOAD = MAX_CIPHERTEXT - TAG_BYTES
_TURN = 64  # reads and writes in a row: some milliseconds at most

_LETTERS: dict[Role, bytes] = {"sender": b"S", "receiver": b"R"}


@unique
class Kind(IntEnum):
    """What a frame says."""

    CHOOSE = 1  # sender: let us use this connection
    CONFIRM = 2  # receiver: yes
    NONCE = 3  # 32 fresh bytes
    ECHO = 4  # the same 32 bytes
    OFFER = 5  # sender: one file to come
    ACCEPT = 6  # receiver: send them
    DATA = 7
    DIGEST = 8  # sender: SHA-256 of the file that ends here
    STORED = 9  # receiver: all files are in their place
    ABORT = 10  # either: the reason, as text
    FINAL = 11  # nothing will follow
    HELD = 12  # receiver: how a file begins that an earlier tunnel brought in part
    RESUME = 13  # sender: the next file goes on from this byte
    OPEN = 14  # this and what follows: of the streams of `punch.client.streams`; CREDIT of `receive --stdout` too
    PUSH = 15
    CREDIT = 16
    END = 17
    RESET = 18
    ASKING = 19  # receiver: its user is asked whether to accept; again and again until then
    DECLINED = 20  # receiver: its user does not accept


class Stream:
    """Exact reads and whole writes on a non-blocking socket. Both raise `ConnectionLostError`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(2 * (HEADER_BYTES + MAX_CIPHERTEXT))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._unsent = memoryview(b"")
        self._uses = 0

    async def read(self, count: int) -> memoryview:
        """Exactly `count` bytes; valid until the next read. At most one frame's worth.

        If it is cancelled, the next read begins at the same byte.
        """
        await self._give_way()
        if self._start + count > len(self._buffer):
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        while self._end - self._start < count:
            try:
                received = self.sock.recv_into(self._view[self._end :])
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                raise ConnectionLostError(f"connection lost: {error.strerror}") from None
            if received == 0:
                raise ConnectionLostError("connection closed by the other end before it was finished")
            self._end += received
        piece = self._view[self._start : self._start + count]
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0
        return piece

    async def write(self, data: bytes) -> None:
        """All of `data`. If it is cancelled, the next write, or `flush`, sends the rest first."""
        await self.flush()
        self._unsent = memoryview(data)
        await self._give_way()
        await self.flush()

    async def flush(self) -> None:
        """What a cancelled write has left."""
        try:
            while self._unsent:
                try:
                    self._unsent = self._unsent[self.sock.send(self._unsent) :]
                except BlockingIOError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
        except OSError as error:
            raise ConnectionLostError(f"connection lost: {error.strerror}") from None

    async def _give_way(self) -> None:
        """Now and then let others run: a socket that is always ready never waits, and no signal would be heard."""
        self._uses += 1
        if self._uses % _TURN == 0:
            await asyncio.sleep(0)

    async def readable(self) -> None:
        """Wait until the other end has sent something, or has closed the connection; nothing is read."""
        if self._start == self._end:
            await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = asyncio.Event()
        descriptor = self.sock.fileno()
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class Channel:
    """An authenticated stream of frames. Made by `handshake`."""

    def __init__(self, stream: Stream, send_key: bytes, receive_key: bytes) -> None:
        self._stream = stream
        self._seal = ChaCha20Poly1305(send_key)
        self._unseal = ChaCha20Poly1305(receive_key)
        self._sent = self._received = 0
        self._finished = False
        self._header = b""

    async def send(self, kind: Kind, payload: bytes | memoryview = b"") -> None:
        """One frame of at most `MAX_PAYLOAD` bytes. Raises `ConnectionLostError`."""
        header = (kind << 24 | (len(payload) + TAG_BYTES)).to_bytes(HEADER_BYTES, "big")
        sealed = self._seal.encrypt(self._sent.to_bytes(12, "big"), payload, header)
        self._sent += 1
        await self._stream.write(header + sealed)

    async def receive(self) -> tuple[Kind, bytes]:
        """The next frame. Raises `ConnectionLostError` (truncation included) and `TamperedError`.

        If it is cancelled, the next call receives the same frame.
        """
        if self._finished:
            raise ConnectionLostError("the other end had finished already")
        header = self._header = self._header or bytes(await self._stream.read(HEADER_BYTES))
        length = int.from_bytes(header[1:], "big")
        if not TAG_BYTES <= length <= MAX_CIPHERTEXT:
            raise TamperedError(f"a frame of {length} bytes cannot be; expected {TAG_BYTES} to {MAX_CIPHERTEXT}")
        sealed = await self._stream.read(length)
        self._header = b""
        try:
            payload = self._unseal.decrypt(self._received.to_bytes(12, "big"), sealed, header)
            kind = Kind(header[0])
        except InvalidTag:
            raise TamperedError("a frame does not authenticate") from None
        except ValueError:
            raise TamperedError(f"frames of kind {header[0]} are unknown") from None
        self._received += 1
        self._finished = kind is Kind.FINAL
        return kind, payload

    async def expect(self, kind: Kind) -> bytes:
        """The payload of the next frame, which must be of `kind`. Raises `ChannelError`."""
        found, payload = await self.receive()
        if found is not kind:
            raise TamperedError(f"expected {kind.name}, got {found.name}")
        return payload

    async def readable(self) -> None:
        """Wait until the other end says something, or the connection has ended; `receive` receives it."""
        await self._stream.readable()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


async def handshake(stream: Stream, session: SessionId, role: Role, session_key: Awaitable[bytes]) -> Channel:
    """Authenticate the other end; `session_key` is awaited once our hello is out.

    Raises `StrangerError` if the other end is nobody we could be looking for, `WrongPeerError` if it does not hold the
    secret or `session_key` says so, `ConnectionLostError` if it went away before that was known. The stream is left
    open.
    """
    own_key = X25519PrivateKey.generate()
    own_hello = MAGIC + _LETTERS[role] + own_key.public_key().public_bytes_raw()
    await stream.write(own_hello)
    peer_hello = bytes(await stream.read(HELLO_BYTES))
    peer_role: Role = "receiver" if role == "sender" else "sender"
    if not peer_hello.startswith(MAGIC):
        raise StrangerError("the other end speaks another protocol")
    if not peer_hello.startswith(MAGIC + _LETTERS[peer_role]):
        raise StrangerError(f"the other end is a {role} too, or this is a connection to oneself")
    try:
        shared = own_key.exchange(X25519PublicKey.from_public_bytes(peer_hello[-KEY_BYTES:]))
    except ValueError:
        raise StrangerError("the other end sent a public key that cannot be") from None

    no_key: WrongPeerError | None = None
    try:
        key = await session_key
    except WrongPeerError as error:
        # A proof that cannot fit: were we to hang up instead, the other end would take it for a lost connection.
        no_key, key = error, os.urandom(KEY_BYTES)

    hellos = {role: own_hello, peer_role: peer_hello}
    name = session.encode()
    transcript = hashlib.sha256(bytes([len(name)]) + name + hellos["sender"] + hellos["receiver"]).digest()
    material = HKDF(algorithm=SHA256(), length=4 * KEY_BYTES, salt=transcript, info=b"punch channel 1").derive(
        shared + key
    )
    keys = [material[start : start + KEY_BYTES] for start in range(0, len(material), KEY_BYTES)]
    confirmation: dict[Role, bytes] = {"sender": keys[0], "receiver": keys[1]}
    traffic: dict[Role, bytes] = {"sender": keys[2], "receiver": keys[3]}

    try:
        await stream.write(_proof(confirmation[role], transcript))
        proof = await stream.read(PROOF_BYTES)
    except ConnectionLostError:
        raise no_key or ConnectionLostError("connection lost before the other end proved anything") from None
    if no_key is not None:
        raise no_key
    if not hmac.compare_digest(proof, _proof(confirmation[peer_role], transcript)):
        raise WrongPeerError("the other end does not hold the secret of this session")
    return Channel(stream, traffic[role], traffic[peer_role])


def _proof(key: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, transcript, "sha256")
