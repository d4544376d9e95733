"""The frames of the rendezvous: between clients and edges, and between edges.

Every frame is one WebSocket text message of at most `MAX_FRAME` bytes (`punch.codec`). `docs/protocol.md`, generated
by `punch.protocol`, has a table of all frames and their fields.

`pake` is the client's message of the key exchange, `traits` what its strategy sends to the peer, and `data` a message
from one client to the other; all three are opaque to the edge. `client` is a random name of the client, which it uses
again when it registers again; the peer does not get it. `public6` is the IPv6 endpoint of a client whose `public` is an
IPv4 endpoint, if the edge has seen it (`punch.reflexive`). `ticket` authorizes the use of `relay` (`punch.relay`).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NewType

from punchlab.punch.codec import Inline, struct, variant
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.fields import (
    EDGE_URL,
    ENDPOINT,
    IPV6_ENDPOINT,
    TOKEN,
    array,
    ascii_text,
    choice,
    matching,
    number,
    text,
)

MAX_FRAME = 4096  # bytes
MAX_PRIVATE = 8  # private candidates of a client
MAX_TRAITS = 512  # characters
MAX_SIGNAL = 1024  # characters
MAX_SIGNALS = 64  # per client

Role = Literal["sender", "receiver"]
Via = Literal["local", "bus"]
SessionId = NewType("SessionId", str)

SESSION_ID = re.compile(r"[a-z0-9]{4,32}")

_SESSION = matching(SESSION_ID, "4 to 32 lower-case letters and digits")
_ROLE = choice("sender", "receiver")
_PRIVATE = array(ENDPOINT, range(MAX_PRIVATE + 1), f"a list of at most {MAX_PRIVATE} unicast endpoints")
_PAKE = matching(re.compile(r"(?:[0-9a-f]{2}){16,64}"), "16 to 64 bytes in hex").or_null
_TRAITS, _DATA, _NAME = ascii_text(MAX_TRAITS), ascii_text(MAX_SIGNAL), text(128)


@dataclass(frozen=True)
class Register:
    """A client registers for a session."""

    TYPE: ClassVar[str] = "register"

    session: Annotated[SessionId, _SESSION]
    role: Annotated[Role, _ROLE]
    private: Annotated[tuple[Endpoint, ...], _PRIVATE]
    pake: Annotated[str | None, _PAKE]
    traits: Annotated[str | None, _TRAITS] = None
    client: Annotated[str, TOKEN] = field(default_factory=lambda: secrets.token_hex(8))
    public6: Annotated[Endpoint | None, IPV6_ENDPOINT] = None
    proof6: Annotated[str | None, TOKEN.given("public6")] = None
    """The proof that the edge has seen the client at `public6`."""


@dataclass(frozen=True)
class Welcome:
    """The answer to `register`: the edge's name, the client's reflexive address, and the edge's relay."""

    TYPE: ClassVar[str] = "welcome"

    edge: Annotated[str, _NAME]
    public: Annotated[Endpoint, ENDPOINT]
    relay: Annotated[EdgeUrl | None, EDGE_URL] = None
    ticket: Annotated[str | None, TOKEN] = None


@dataclass(frozen=True)
class Contact:
    """The candidates of a client, its key-exchange message, its traits, and the relay of its edge with the ticket."""

    public: Annotated[Endpoint, ENDPOINT]
    private: Annotated[tuple[Endpoint, ...], _PRIVATE]
    pake: Annotated[str | None, _PAKE]
    traits: Annotated[str | None, _TRAITS] = None
    relay: Annotated[EdgeUrl | None, EDGE_URL] = None
    public6: Annotated[Endpoint | None, IPV6_ENDPOINT] = None
    ticket: Annotated[str | None, TOKEN] = None


@dataclass(frozen=True)
class Peer:
    """The contact of the client's peer, and whether the peer is at the same edge."""

    TYPE: ClassVar[str] = "peer"

    contact: Annotated[Contact, Inline]
    via: Annotated[Via, choice("local", "bus")]


@dataclass(frozen=True)
class PeerSignal:
    """A signal from one client to its peer, once the client has received `peer`."""

    TYPE: ClassVar[str] = "signal"

    data: Annotated[str, _DATA]


@dataclass(frozen=True)
class Hello:
    """The first frame of both ends of a mesh link; `instance` is random in each process."""

    TYPE: ClassVar[str] = "hello"

    name: Annotated[str, _NAME]
    instance: Annotated[str, TOKEN]


@dataclass(frozen=True)
class Waiting:
    """A receiver is waiting for its sender at this endpoint."""

    TYPE: ClassVar[str] = "waiting"

    registration: Annotated[str, TOKEN]
    client: Annotated[str, TOKEN]


@dataclass(frozen=True)
class Ask:
    """The registration `asker` asks whether an announced receiver is still connected."""

    TYPE: ClassVar[str] = "ask"

    registration: Annotated[str, TOKEN]
    asker: Annotated[str, TOKEN]
    client: Annotated[str, TOKEN]
    role: Annotated[Role, _ROLE]


@dataclass(frozen=True)
class Here:
    """The receiver is still connected; `contact` is its contact."""

    TYPE: ClassVar[str] = "here"

    registration: Annotated[str, TOKEN]
    asker: Annotated[str, TOKEN]
    client: Annotated[str, TOKEN]
    contact: Annotated[Contact, struct(Contact)]


@dataclass(frozen=True)
class Answer:
    """A sender and a receiver, identified by the names of their clients, have been paired."""

    TYPE: ClassVar[str] = "answer"

    receiver: Annotated[str, TOKEN]
    sender: Annotated[str, TOKEN]
    receiver_contact: Annotated[Contact, struct(Contact)]
    sender_contact: Annotated[Contact, struct(Contact)]


@dataclass(frozen=True)
class Gone:
    """A receiver that was announced, or a sender that asked, has disconnected."""

    TYPE: ClassVar[str] = "gone"

    registration: Annotated[str, TOKEN]


@dataclass(frozen=True)
class Signal:
    """A signal of the client with the role `origin`, for its peer in the pair of the receiver `receiver`."""

    TYPE: ClassVar[str] = "signal"

    receiver: Annotated[str, TOKEN]
    origin: Annotated[Role, _ROLE]
    data: Annotated[str, _DATA]


Body = Waiting | Ask | Here | Answer | Gone | Signal
BODIES: tuple[type[Body], ...] = (Waiting, Ask, Here, Answer, Gone, Signal)


@dataclass(frozen=True)
class Message:
    """One message of the bus; `age_s` is the time since it was published, in seconds."""

    TYPE: ClassVar[str] = "message"

    id: Annotated[str, TOKEN]
    session: Annotated[SessionId, _SESSION]
    age_s: Annotated[float, number(1e9, digits=3)]
    body: Annotated[Body, variant(*BODIES)]
