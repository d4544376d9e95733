"""The encrypted, mutually authenticated channel over a connection to the peer.

Theory of operation ------------------- Both clients hold a session key (from SPAKE2, or from a key file) that no other
party has. A TCP connection, however, may lead to the peer, to another host with the peer's private address in this
network, to a stranger that connected to our listener, or to ourselves. So each connection starts with a handshake of
fixed-length messages. Both ends send their hello at once, because a simultaneous open has no server:

    hello   "punch/2\n", the role ("S" or "R"), the contacts' tag of that role, a fresh X25519 public key    57 bytes
    proof   HMAC-SHA256(confirmation key of the role, transcript)                                            32 bytes

    transcript = SHA-256(session name, sender's hello, receiver's hello)
    confirmation keys and traffic keys, one per direction =
        HKDF-SHA256(X25519 secret + session key, salt = transcript)

The tags are derived from the contacts that the edges sent to the two clients (`punch.secure.keys`). They are not secret
from an edge. They detect a stranger before the handshake uses the secret.

The sender sends its proof first, on the connection that it chooses, and the receiver answers with its own proof. This
is how they agree on a connection (`punch.punching.agreement`). It also means that nobody gets a receiver's proof
without knowing the secret: the answer to a wrong proof is 32 zero bytes. `punch.secure.guesses` limits what an attacker
can learn from a sender's proof.

The fresh public keys are the nonces of both sides: a proof of another connection is not valid, and a key file that is
stolen later does not decrypt a recording. The role is part of the hello, the transcript and the keys: a message
reflected to its sender is not valid, and the hello detects a connection to oneself. Until both proofs are verified,
each end sends and reads only these 89 bytes.

After the handshake, each direction is a sequence of frames:

    kind (1 byte), length (3 bytes, big-endian, at most 65,536), ChaCha20-Poly1305 ciphertext with its tag

The header is authenticated as associated data. The nonce is the number of the frame, which detects lost, repeated and
reordered frames. The last frame is FINAL: a connection that ends without it is truncated.
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
CONTACT_TAG_BYTES = 16
HELLO_BYTES = len(MAGIC) + 1 + CONTACT_TAG_BYTES + KEY_BYTES
PROOF_BYTES = 32
HEADER_BYTES = 4
TAG_BYTES = 16
MAX_CIPHERTEXT = 65_536
MAX_PAYLOAD = MAX_CIPHERTEXT - TAG_BYTES
_TURN = 64  # consecutive reads and writes without yielding: a few milliseconds

_LETTERS: dict[Role, bytes] = {"sender": b"S", "receiver": b"R"}


@unique
class Kind(IntEnum):
    """The kinds of frames."""

    NONCE = 3  # 32 fresh bytes
    ECHO = 4  # the same 32 bytes
    OFFER = 5  # sender: one of the offered files
    ACCEPT = 6  # receiver: accepts the offer
    DATA = 7
    DIGEST = 8  # sender: end of a file, with its SHA-256
    STORED = 9  # receiver: all files are stored
    ABORT = 10  # either: the reason, as text
    FINAL = 11  # no frame follows
    HELD = 12  # receiver: size and SHA-256 of the part of a file that an earlier tunnel transferred
    RESUME = 13  # sender: the offset at which the next file resumes
    OPEN = 14  # OPEN to RESET belong to `punch.transfer.streams`; `receive --stdout` uses CREDIT as well
    PUSH = 15
    CREDIT = 16
    END = 17
    RESET = 18
    ASKING = 19  # receiver: waiting for its user's answer; repeated until then
    DECLINED = 20  # receiver: its user declined the offer


class Stream:
    """Exact reads and complete writes on a non-blocking socket. Both raise `ConnectionLostError`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(2 * (HEADER_BYTES + MAX_CIPHERTEXT))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._unsent = memoryview(b"")
        self._uses = 0

    async def read(self, count: int) -> memoryview:
        """Return exactly `count` bytes, at most one frame. They are valid until the next read.

        If it is cancelled, the next read begins at the same byte.
        """
        await self._yield_regularly()
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
        """Write all of `data`. If it is cancelled, the next write, or `flush`, sends the rest first."""
        await self.flush()
        self._unsent = memoryview(data)
        await self._yield_regularly()
        await self.flush()

    async def flush(self) -> None:
        """Send the rest of a cancelled write."""
        try:
            while self._unsent:
                try:
                    self._unsent = self._unsent[self.sock.send(self._unsent) :]
                except BlockingIOError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
        except OSError as error:
            raise ConnectionLostError(f"connection lost: {error.strerror}") from None

    async def _yield_regularly(self) -> None:
        """Yield to the event loop regularly: a socket that is always ready never waits, and would block signals."""
        self._uses += 1
        if self._uses % _TURN == 0:
            await asyncio.sleep(0)

    async def readable(self) -> None:
        """Wait until data arrive or the other end closes the connection; nothing is read."""
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
    """An authenticated stream of frames. Made by `Proofs.verify`."""

    def __init__(self, stream: Stream, send_key: bytes, receive_key: bytes) -> None:
        self._stream = stream
        self._seal = ChaCha20Poly1305(send_key)
        self._unseal = ChaCha20Poly1305(receive_key)
        self._sent = self._received = 0
        self._finished = False
        self._header = b""

    async def send(self, kind: Kind, payload: bytes | memoryview = b"") -> None:
        """Send one frame with a payload of at most `MAX_PAYLOAD` bytes. Raises `ConnectionLostError`."""
        header = (kind << 24 | (len(payload) + TAG_BYTES)).to_bytes(HEADER_BYTES, "big")
        sealed = self._seal.encrypt(self._sent.to_bytes(12, "big"), payload, header)
        self._sent += 1
        await self._stream.write(header + sealed)

    async def receive(self) -> tuple[Kind, bytes]:
        """Return the next frame. Raises `ConnectionLostError` (also if truncated) and `TamperedError`.

        If it is cancelled, the next call returns the same frame.
        """
        if self._finished:
            raise ConnectionLostError("the other end has already finished")
        header = self._header = self._header or bytes(await self._stream.read(HEADER_BYTES))
        length = int.from_bytes(header[1:], "big")
        if not TAG_BYTES <= length <= MAX_CIPHERTEXT:
            raise TamperedError(f"a frame of {length} bytes; expected {TAG_BYTES} to {MAX_CIPHERTEXT}")
        sealed = await self._stream.read(length)
        self._header = b""
        try:
            payload = self._unseal.decrypt(self._received.to_bytes(12, "big"), sealed, header)
            kind = Kind(header[0])
        except InvalidTag:
            raise TamperedError("the authentication of a frame failed") from None
        except ValueError:
            raise TamperedError(f"unknown frame kind {header[0]}") from None
        self._received += 1
        self._finished = kind is Kind.FINAL
        return kind, payload

    async def expect(self, kind: Kind) -> bytes:
        """Return the payload of the next frame, which must be of `kind`. Raises `ChannelError`."""
        found, payload = await self.receive()
        if found is not kind:
            raise TamperedError(f"expected {kind.name}, got {found.name}")
        return payload

    async def readable(self) -> None:
        """Wait until a frame arrives or the connection ends; `receive` returns it."""
        await self._stream.readable()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


class HelloExchange:
    """The exchanged hellos of a connection that is not authenticated yet. Made by `exchange_hellos`."""

    def __init__(self, stream: Stream, role: Role, hellos: Mapping[Role, bytes], shared: bytes) -> None:
        self._stream = stream
        self._role = role
        self._hellos = hellos
        self._shared = shared

    def agree(self, session: SessionId, session_key: bytes) -> Proofs:
        """Return the proofs of this connection with the key of that session."""
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
    """The proofs of both ends of a connection that they hold the secret, and the keys of its channel.

    The first element of each pair is ours, the second that of the other end.
    """

    def __init__(self, stream: Stream, proofs: tuple[bytes, bytes], traffic: tuple[bytes, bytes]) -> None:
        self._stream = stream
        self._own, self._other = proofs
        self._traffic = traffic

    async def prove(self) -> None:
        """Send our proof. Raises `ConnectionLostError`."""
        await self._stream.write(self._own)

    async def refuse(self) -> None:
        """Send an invalid proof; without it, the other end could not distinguish this from a lost connection."""
        with contextlib.suppress(ConnectionLostError):
            await self._stream.write(bytes(PROOF_BYTES))

    async def verify(self) -> Channel:
        """Read and verify the other end's proof. Raises `WrongPeerError`, or `ConnectionLostError` if none arrives."""
        try:
            proof = await self._stream.read(PROOF_BYTES)
        except ConnectionLostError:
            raise ConnectionLostError("connection lost before the other end authenticated") from None
        if not hmac.compare_digest(proof, self._other):
            raise WrongPeerError("the other end does not have the secret of this session")
        return Channel(self._stream, *self._traffic)


async def exchange_hellos(stream: Stream, role: Role, tags: Mapping[Role, bytes]) -> HelloExchange:
    """Exchange the hellos; `tags` are the tags of both roles for the exchanged contacts.

    Raises `StrangerError` if the other end cannot be the peer, `WrongPeerError` if it has other contacts,
    `ConnectionLostError` if the connection ends before that is known. The stream stays open.
    """
    own_key = X25519PrivateKey.generate()
    own_hello = MAGIC + _LETTERS[role] + tags[role] + own_key.public_key().public_bytes_raw()
    await stream.write(own_hello)
    peer_hello = bytes(await stream.read(len(MAGIC)))
    if peer_hello != MAGIC:
        raise StrangerError("the other end uses another protocol")
    peer_hello += bytes(await stream.read(HELLO_BYTES - len(MAGIC)))
    peer_role: Role = "receiver" if role == "sender" else "sender"
    greeting = MAGIC + _LETTERS[peer_role]
    if not peer_hello.startswith(greeting):
        raise StrangerError(f"the other end is a {role} too, or this client is connected to itself")
    if not peer_hello.startswith(greeting + tags[peer_role]):
        raise WrongPeerError("the other end belongs to another session, or an edge has changed the endpoints")
    try:
        shared = own_key.exchange(X25519PublicKey.from_public_bytes(peer_hello[-KEY_BYTES:]))
    except ValueError:
        raise StrangerError("the other end sent an invalid public key") from None
    return HelloExchange(stream, role, {role: own_hello, peer_role: peer_hello}, shared)
