"""The encrypted, mutually authenticated channel that every punched connection has to become.

Theory of operation
-------------------
Both clients hold a session key (from SPAKE2, or from a key file) that nobody else holds. A TCP connection, on the
other hand, may lead anywhere: to the peer, to a wrong host that has the peer's private address in this network, to a
stranger that dialled our listener, or to ourselves. So each connection starts with a handshake of fixed-length
messages. Both hellos are sent without waiting for one's turn (nobody is the server of a simultaneous open):

    hello   "punch/2\n", the role ("S" or "R"), the meeting's tag of that role, a fresh X25519 public key    57 bytes
    proof   HMAC-SHA256(confirmation key of one's role, transcript)                                          32 bytes

    transcript = SHA-256(session name, sender's hello, receiver's hello)
    confirmation keys and traffic keys, one per direction =
        HKDF-SHA256(X25519 secret + session key, salt = transcript)

The tags are derived from what the edges have said to the two clients about each other (`punch.secure.keys`). They are
no secret from an edge; without them a stranger is found out before anything depends on the secret.

The sender proves first, on the connection that it chooses, and the receiver answers by its own proof: that is how they
agree (`punch.punching.agreement`), and why nobody gets a receiver's proof without knowing the secret (a wrong one is
answered by 32 zero bytes). What others may learn from a sender's proof is bounded by `punch.secure.guesses`.

The fresh public keys serve as the nonces of both sides: no proof of another connection fits, and a key file that is
stolen later opens no recording. The roles are in the hello, in the transcript and in the keys: a message sent back to
its sender is the wrong one, and a connection to oneself is seen at the hello. Before both proofs are checked nothing
is read but those 89 bytes, and nothing else is said.

After that, each direction is a sequence of frames:

    kind (1 byte), length (3 bytes, big-endian, at most 65,536), ChaCha20-Poly1305 ciphertext with its tag

The header is authenticated as associated data; the nonce is the number of the frame, so that frames cannot be lost,
repeated or reordered unnoticed. The last frame is FINAL: an end of the connection without it is a truncation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import socket
from collections.abc import Callable, Mapping
from enum import IntEnum, unique

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punchlab.punch.errors import ConnectionLostError, StrangerError, TamperedError, WrongPeerError
from punchlab.punch.frames import Role, SessionId

MAGIC = b"punch/2\n"
KEY_BYTES = 32
MEETING_TAG_BYTES = 16
HELLO_BYTES = len(MAGIC) + 1 + MEETING_TAG_BYTES + KEY_BYTES
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
    OPEN = 14  # this and what follows: of the streams of `punch.transfer.streams`; CREDIT of `receive --stdout` too
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
    """An authenticated stream of frames. Made by `Introduction`."""

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


class Introduction:
    """Two ends that have heard each other's hello, and proved nothing yet. Made by `introduce`."""

    def __init__(self, stream: Stream, role: Role, hellos: Mapping[Role, bytes], shared: bytes) -> None:
        self._stream = stream
        self._role = role
        self._hellos = hellos
        self._shared = shared

    def agree(self, session: SessionId, session_key: bytes) -> Proofs:
        """The proofs of this connection, by the key of that session."""
        name = session.encode()
        transcript = hashlib.sha256(
            bytes([len(name)]) + name + self._hellos["sender"] + self._hellos["receiver"]
        ).digest()
        material = HKDF(algorithm=SHA256(), length=4 * KEY_BYTES, salt=transcript, info=b"punch channel 2").derive(
            self._shared + session_key
        )
        keys = [material[start : start + KEY_BYTES] for start in range(0, len(material), KEY_BYTES)]
        proofs = [hmac.digest(key, transcript, "sha256") for key in keys[:2]]
        own, other = (0, 1) if self._role == "sender" else (1, 0)
        return Proofs(self._stream, (proofs[own], proofs[other]), (keys[2 + own], keys[2 + other]))


class Proofs:
    """What each end of one connection says to prove that it holds the secret, and the channel that comes of it.

    The first of each pair is ours, the second is that of the other end.
    """

    def __init__(self, stream: Stream, proofs: tuple[bytes, bytes], traffic: tuple[bytes, bytes]) -> None:
        self._stream = stream
        self._own, self._other = proofs
        self._traffic = traffic

    async def prove(self) -> None:
        """Send our proof. Raises `ConnectionLostError`."""
        await self._stream.write(self._own)

    async def refuse(self) -> None:
        """Send a proof that cannot fit: if we hung up instead, the other end would take it for a lost connection."""
        with contextlib.suppress(ConnectionLostError):
            await self._stream.write(bytes(PROOF_BYTES))

    async def verify(self) -> Channel:
        """Read the other end's proof. Raises `WrongPeerError`, and `ConnectionLostError` if none comes."""
        try:
            proof = await self._stream.read(PROOF_BYTES)
        except ConnectionLostError:
            raise ConnectionLostError("connection lost before the other end proved anything") from None
        if not hmac.compare_digest(proof, self._other):
            raise WrongPeerError("the other end does not hold the secret of this session")
        return Channel(self._stream, *self._traffic)


async def introduce(stream: Stream, role: Role, tags: Mapping[Role, bytes]) -> Introduction:
    """Exchange the hellos; `tags` are those of the meeting.

    Raises `StrangerError` if the other end is nobody we could be looking for, `WrongPeerError` if it takes part in
    another meeting, `ConnectionLostError` if it went away before that was known. The stream is left open.
    """
    own_key = X25519PrivateKey.generate()
    own_hello = MAGIC + _LETTERS[role] + tags[role] + own_key.public_key().public_bytes_raw()
    await stream.write(own_hello)
    peer_hello = bytes(await stream.read(len(MAGIC)))
    if peer_hello != MAGIC:
        raise StrangerError("the other end speaks another protocol")
    peer_hello += bytes(await stream.read(HELLO_BYTES - len(MAGIC)))
    peer_role: Role = "receiver" if role == "sender" else "sender"
    greeting = MAGIC + _LETTERS[peer_role]
    if not peer_hello.startswith(greeting):
        raise StrangerError(f"the other end is a {role} too, or this is a connection to oneself")
    if not peer_hello.startswith(greeting + tags[peer_role]):
        raise WrongPeerError("the other end is of another session, or an edge has changed what the two sent")
    try:
        shared = own_key.exchange(X25519PublicKey.from_public_bytes(peer_hello[-KEY_BYTES:]))
    except ValueError:
        raise StrangerError("the other end sent a public key that cannot be") from None
    return Introduction(stream, role, {role: own_hello, peer_role: peer_hello}, shared)
