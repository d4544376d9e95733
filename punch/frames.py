"""The frames of the rendezvous: what clients and edges, and edges among themselves, say to each other.

Every frame is one WebSocket text message of at most `MAX_FRAME` bytes holding a JSON object whose "type" says which.
Everything that comes from outside passes through one of the `parse_…` functions here, which check each field and
raise `FrameError` in words that can be sent back; what they return can be relied upon.

    client -> edge   register  {session, role, private, pake, traits, client, public6, proof6}
                     signal    {data}                                  after `peer`, to that peer
    edge -> client   welcome   {edge, public, relay, ticket}
                     peer      {public, public6, private, pake, traits, relay, ticket, via}
                     signal    {data}                                  from the peer
    edge <-> edge    hello     {name, instance}
                     message   {id, session, age_s, body}     body: see `Body`

`pake` is the client's part in the exchange of keys, `traits` (which may be missing) what its strategy has to tell the
peer, and `data` whatever the two clients say to each other; all three are opaque to the edge. `client` is the client's
own random name, by which it is known when it registers again; left out, it is a new one each time. The peer is not told
it. `public6` is the IPv6 endpoint of a client whose `public` is of IPv4, if it has shown it (see `punch.reflexive`).
`ticket` is what the two clients of a session show at `relay` (see `punch.relay`).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, NewType, cast

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError, FrameError
from punchlab.punch.fields import (
    Json,
    ascii_field,
    decode,
    encode,
    endpoint_field,
    endpoints_field,
    ipv6_field,
    matching_field,
    short,
    text_field,
    token_field,
)

MAX_FRAME = 4096  # bytes
MAX_URL = 128  # characters of the address of a relay
MAX_PRIVATE = 8  # private candidates a client may name
MAX_TRAITS = 512  # characters
MAX_SIGNAL = 1024  # characters
MAX_SIGNALS = 64  # that a client may send

Role = Literal["sender", "receiver"]
Via = Literal["local", "bus"]
SessionId = NewType("SessionId", str)

SESSION_ID = re.compile(r"[a-z0-9]{4,32}")
_PAKE = re.compile(r"(?:[0-9a-f]{2}){16,64}")


@dataclass(frozen=True)
class Register:
    """A client wants to meet its peer."""

    session: SessionId
    role: Role
    private: tuple[Endpoint, ...]
    pake: str | None
    traits: str | None = None
    client: str = field(default_factory=lambda: secrets.token_hex(8))
    public6: Endpoint | None = None
    proof6: str | None = None
    """That the edge has seen the client at `public6`."""


@dataclass(frozen=True)
class Welcome:
    """The edge's answer to `register`: its name, the client's address as seen from outside, and the edge's relay."""

    edge: str
    public: Endpoint
    relay: EdgeUrl | None = None
    ticket: str | None = None


@dataclass(frozen=True)
class Contact:
    """How a client can be reached, its opaque key-exchange message, its opaque traits, and the relay of its edge.

    `ticket` is what that relay wants to see.
    """

    public: Endpoint
    private: tuple[Endpoint, ...]
    pake: str | None
    traits: str | None = None
    relay: EdgeUrl | None = None
    public6: Endpoint | None = None
    ticket: str | None = None

    def to_json(self) -> Json:
        """The fields as they go into a frame."""
        private = [str(each) for each in self.private]
        relay = _given_relay(self.relay, self.ticket)
        optional = {**_given_traits(self.traits), **relay, **_given_public6(self.public6)}
        return {"public": str(self.public), "private": private, "pake": self.pake, **optional}


@dataclass(frozen=True)
class Peer:
    """The edge tells a client about its peer."""

    contact: Contact
    via: Via


@dataclass(frozen=True)
class Hello:
    """First frame of both ends of a mesh link; `instance` is fresh in each process."""

    name: str
    instance: str


@dataclass(frozen=True)
class Waiting:
    """Body: a receiver waits at some endpoint and looks for its sender."""

    registration: str
    client: str


@dataclass(frozen=True)
class Ask:
    """Body: the registration `asker` wants to know whether a receiver that was announced is still there."""

    registration: str
    asker: str
    client: str
    role: Role


@dataclass(frozen=True)
class Here:
    """Body: it is, and this is how it is reached."""

    registration: str
    asker: str
    client: str
    contact: Contact


@dataclass(frozen=True)
class Answer:
    """Body: a sender and a receiver, by their clients' names, have been given to each other."""

    receiver: str
    sender: str
    receiver_contact: Contact
    sender_contact: Contact


@dataclass(frozen=True)
class Gone:
    """Body: a receiver that was announced, or a sender that asked, is no longer there."""

    registration: str


@dataclass(frozen=True)
class Signal:
    """Body: what a client in the role `origin` says to its peer, once the receiver of that name has met a sender."""

    receiver: str
    origin: Role
    data: str


Body = Waiting | Ask | Here | Answer | Gone | Signal
BODY_TYPES: dict[type[Body], str] = {
    Waiting: "waiting",
    Ask: "ask",
    Here: "here",
    Answer: "answer",
    Gone: "gone",
    Signal: "signal",
}


@dataclass(frozen=True)
class Message:
    """One message of the bus: `age_s` is how long ago it was published."""

    id: str
    session: SessionId
    age_s: float
    body: Body

    @property
    def type(self) -> str:
        """The body's type, as written in the frame."""
        return BODY_TYPES[type(self.body)]


def register_frame(register: Register) -> str:
    """`register` as text."""
    fields = {
        "session": register.session,
        "role": register.role,
        "private": [str(each) for each in register.private],
        "pake": register.pake,
        "client": register.client,
        **_given_traits(register.traits),
        **_given_public6(register.public6),
        **({} if register.proof6 is None else {"proof6": register.proof6}),
    }
    return encode("register", fields)


def parse_register(frame: str | bytes) -> Register:
    """The first frame of a client."""
    _, fields = decode(frame, "register")
    role, private = _role(fields, "role"), endpoints_field(fields, "private", MAX_PRIVATE)
    client = token_field(fields, "client") if "client" in fields else secrets.token_hex(8)
    public6 = _public6(fields)
    proof6 = None if public6 is None else token_field(fields, "proof6")
    return Register(_session(fields), role, private, _pake(fields), _traits(fields), client, public6, proof6)


def signal_frame(data: str) -> str:
    """What one client says to the other, as text."""
    return encode("signal", {"data": data})


def parse_signal(frame: str | bytes) -> str:
    """What the other client says."""
    _, fields = decode(frame, "signal")
    return ascii_field(fields, "data", MAX_SIGNAL)


def welcome_frame(welcome: Welcome) -> str:
    """`welcome` as text."""
    relay = _given_relay(welcome.relay, welcome.ticket)
    return encode("welcome", {"edge": welcome.edge, "public": str(welcome.public), **relay})


def parse_welcome(frame: str | bytes) -> Welcome:
    """The edge's answer to `register`."""
    _, fields = decode(frame, "welcome")
    return Welcome(text_field(fields, "edge", 128), endpoint_field(fields, "public"), _relay(fields), _ticket(fields))


def peer_frame(peer: Peer) -> str:
    """`peer` as text."""
    return encode("peer", {**peer.contact.to_json(), "via": peer.via})


def parse_peer(frame: str | bytes) -> Peer:
    """What the edge says once the peer is there."""
    _, fields = decode(frame, "peer")
    via = text_field(fields, "via", 16)
    if via not in ("local", "bus"):
        raise FrameError(f"via: {short(via)} is unknown; expected local or bus")
    return Peer(_contact(fields), cast("Via", via))


def hello_frame(hello: Hello) -> str:
    """`hello` as text."""
    return encode("hello", {"name": hello.name, "instance": hello.instance})


def message_frame(message: Message) -> str:
    """`message` as text."""
    body: Json = {"type": message.type}
    for name, value in vars(message.body).items():
        body[name] = value.to_json() if isinstance(value, Contact) else value
    fields = {"id": message.id, "session": message.session, "age_s": round(message.age_s, 3), "body": body}
    return encode("message", fields)


def parse_hello(frame: str | bytes) -> Hello:
    """The first frame of a mesh link."""
    _, fields = decode(frame, "hello")
    return Hello(text_field(fields, "name", 128), token_field(fields, "instance"))


def parse_message(frame: str | bytes) -> Message:
    """Any later frame of a mesh link."""
    _, fields = decode(frame, "message")
    age = fields.get("age_s")
    if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= 1e9:
        raise FrameError(f"age_s: {short(age)} cannot be used; expected seconds, zero or more")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise FrameError("body: expected an object")
    return Message(token_field(fields, "id"), _session(fields), float(age), _body(cast("Json", body)))


def _body(fields: Json) -> Body:
    kind = fields.get("type")
    match kind:
        case "waiting":
            return Waiting(token_field(fields, "registration"), token_field(fields, "client"))
        case "ask":
            registration, asker, client = (token_field(fields, name) for name in ("registration", "asker", "client"))
            return Ask(registration, asker, client, _role(fields, "role"))
        case "here":
            registration, asker, client = (token_field(fields, name) for name in ("registration", "asker", "client"))
            return Here(registration, asker, client, _inner_contact(fields, "contact"))
        case "answer":
            return Answer(
                token_field(fields, "receiver"),
                token_field(fields, "sender"),
                _inner_contact(fields, "receiver_contact"),
                _inner_contact(fields, "sender_contact"),
            )
        case "gone":
            return Gone(token_field(fields, "registration"))
        case "signal":
            return Signal(
                token_field(fields, "receiver"), _role(fields, "origin"), ascii_field(fields, "data", MAX_SIGNAL)
            )
    raise FrameError(f"unexpected body type {short(kind)}")


def _contact(fields: Json) -> Contact:
    public, private = endpoint_field(fields, "public"), endpoints_field(fields, "private", MAX_PRIVATE)
    pake, traits, ticket = _pake(fields), _traits(fields), _ticket(fields)
    return Contact(public, private, pake, traits, _relay(fields), _public6(fields), ticket)


def _role(fields: Json, name: str) -> Role:
    role = text_field(fields, name, 16)
    if role not in ("sender", "receiver"):
        raise FrameError(f"{name}: {short(role)} is unknown; expected sender or receiver")
    return cast("Role", role)


def _traits(fields: Json) -> str | None:
    return None if fields.get("traits") is None else ascii_field(fields, "traits", MAX_TRAITS)


def _given_traits(traits: str | None) -> Json:
    return {} if traits is None else {"traits": traits}


def _relay(fields: Json) -> EdgeUrl | None:
    if fields.get("relay") is None:
        return None
    text = text_field(fields, "relay", MAX_URL)
    try:
        return EdgeUrl.parse(text)
    except ArgumentError:
        raise FrameError(f"relay: {short(text)} cannot be used; expected the URL of an edge") from None


def _ticket(fields: Json) -> str | None:
    return None if fields.get("ticket") is None else token_field(fields, "ticket")


def _given_relay(relay: EdgeUrl | None, ticket: str | None) -> Json:
    return {**({} if relay is None else {"relay": str(relay)}), **({} if ticket is None else {"ticket": ticket})}


def _public6(fields: Json) -> Endpoint | None:
    return None if fields.get("public6") is None else ipv6_field(fields, "public6")


def _given_public6(public6: Endpoint | None) -> Json:
    return {} if public6 is None else {"public6": str(public6)}


def _inner_contact(fields: Json, name: str) -> Contact:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise FrameError(f"{name}: expected an object")
    return _contact(cast("Json", value))


def _session(fields: Json) -> SessionId:
    return SessionId(matching_field(fields, "session", SESSION_ID, "4 to 32 lower-case letters and digits"))


def _pake(fields: Json) -> str | None:
    if "pake" not in fields:
        raise FrameError("pake: missing")
    return None if fields["pake"] is None else matching_field(fields, "pake", _PAKE, "16 to 64 bytes in hex, or null")
