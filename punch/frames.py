"""The frames of the rendezvous: what clients and edges, and edges among themselves, say to each other.

Every frame is one WebSocket text message of at most `MAX_FRAME` bytes holding a JSON object whose "type" says which.
Everything that comes from outside passes through one of the `parse_…` functions here, which check each field and
raise `FrameError` in words that can be sent back; what they return can be relied upon.

    client -> edge   register  {session, role, private, pake}
    edge -> client   welcome   {edge, public}
                     peer      {public, private, pake, via}
    edge <-> edge    hello     {name, instance}
                     message   {id, session, age_s, body}     body: see `Body`

`pake` is the client's SPAKE2 message, opaque to the edge, or null when both clients hold a key already.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, NewType, cast

from punch.endpoint import Endpoint
from punch.errors import FrameError, InputError

MAX_FRAME = 4096  # bytes
MAX_PRIVATE = 8  # private candidates a client may name

Role = Literal["sender", "receiver"]
Via = Literal["local", "bus"]
Json = dict[str, Any]
SessionId = NewType("SessionId", str)

SESSION_ID = re.compile(r"[a-z0-9]{4,32}")
_TOKEN = re.compile(r"[0-9a-f]{16,64}")
_PAKE = re.compile(r"(?:[0-9a-f]{2}){16,64}")


@dataclass(frozen=True)
class Register:
    """A client wants to meet its peer."""

    session: SessionId
    role: Role
    private: tuple[Endpoint, ...]
    pake: str | None


@dataclass(frozen=True)
class Welcome:
    """The edge's answer to `register`: its name, and the client's address as seen from outside."""

    edge: str
    public: Endpoint


@dataclass(frozen=True)
class Contact:
    """How a client can be reached, and its opaque key-exchange message."""

    public: Endpoint
    private: tuple[Endpoint, ...]
    pake: str | None

    def to_json(self) -> Json:
        """The fields as they go into a frame."""
        return {"public": str(self.public), "private": [str(each) for each in self.private], "pake": self.pake}


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
    contact: Contact


@dataclass(frozen=True)
class Answer:
    """Body: the sender, found at another endpoint, answers one waiting receiver."""

    registration: str
    contact: Contact


@dataclass(frozen=True)
class Gone:
    """Body: a receiver that was announced is no longer there."""

    registration: str


Body = Waiting | Answer | Gone
BODY_TYPES: dict[type[Body], str] = {Waiting: "waiting", Answer: "answer", Gone: "gone"}


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


def encode(kind: str, fields: Json) -> str:
    """A frame as text."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def decode(frame: str | bytes, *expected: str) -> tuple[str, Json]:
    """The type and the fields of a frame whose type must be one of `expected`."""
    if not isinstance(frame, str):
        raise FrameError("expected a text frame, got a binary one")
    try:
        value = json.loads(frame)
    except (ValueError, RecursionError):
        raise FrameError("malformed JSON") from None
    if not isinstance(value, dict):
        raise FrameError("expected a JSON object")
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in expected:
        raise FrameError(f"unexpected type {_short(kind)}; expected {' or '.join(expected)}")
    return kind, cast("Json", value)


def register_frame(register: Register) -> str:
    """`register` as text."""
    fields = {
        "session": register.session,
        "role": register.role,
        "private": [str(each) for each in register.private],
        "pake": register.pake,
    }
    return encode("register", fields)


def parse_register(frame: str | bytes) -> Register:
    """The first, and only, frame of a client."""
    _, fields = decode(frame, "register")
    role = _text(fields, "role", 16)
    if role not in ("sender", "receiver"):
        raise FrameError(f"role: {_short(role)} is unknown; expected sender or receiver")
    return Register(_session(fields), cast("Role", role), _endpoints(fields, "private"), _pake(fields))


def welcome_frame(welcome: Welcome) -> str:
    """`welcome` as text."""
    return encode("welcome", {"edge": welcome.edge, "public": str(welcome.public)})


def parse_welcome(frame: str | bytes) -> Welcome:
    """The edge's answer to `register`."""
    _, fields = decode(frame, "welcome")
    return Welcome(_text(fields, "edge", 128), _endpoint(fields, "public"))


def peer_frame(peer: Peer) -> str:
    """`peer` as text."""
    return encode("peer", {**peer.contact.to_json(), "via": peer.via})


def parse_peer(frame: str | bytes) -> Peer:
    """What the edge says once the peer is there."""
    _, fields = decode(frame, "peer")
    via = _text(fields, "via", 16)
    if via not in ("local", "bus"):
        raise FrameError(f"via: {_short(via)} is unknown; expected local or bus")
    return Peer(_contact(fields), cast("Via", via))


def hello_frame(hello: Hello) -> str:
    """`hello` as text."""
    return encode("hello", {"name": hello.name, "instance": hello.instance})


def message_frame(message: Message) -> str:
    """`message` as text."""
    body: Json = {"type": message.type, "registration": message.body.registration}
    if not isinstance(message.body, Gone):
        body |= message.body.contact.to_json()
    fields = {"id": message.id, "session": message.session, "age_s": round(message.age_s, 3), "body": body}
    return encode("message", fields)


def parse_hello(frame: str | bytes) -> Hello:
    """The first frame of a mesh link."""
    _, fields = decode(frame, "hello")
    return Hello(_text(fields, "name", 128), _matching(fields, "instance", _TOKEN, "16 to 64 hex digits"))


def parse_message(frame: str | bytes) -> Message:
    """Any later frame of a mesh link."""
    _, fields = decode(frame, "message")
    age = fields.get("age_s")
    if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= 1e9:
        raise FrameError(f"age_s: {_short(age)} cannot be used; expected seconds, zero or more")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise FrameError("body: expected an object")
    identity = _matching(fields, "id", _TOKEN, "16 to 64 hex digits")
    return Message(identity, _session(fields), float(age), _body(cast("Json", body)))


def _body(fields: Json) -> Body:
    kind = fields.get("type")
    registration = _matching(fields, "registration", _TOKEN, "16 to 64 hex digits")
    match kind:
        case "waiting":
            return Waiting(registration, _contact(fields))
        case "answer":
            return Answer(registration, _contact(fields))
        case "gone":
            return Gone(registration)
    raise FrameError(f"unexpected body type {_short(kind)}")


def _contact(fields: Json) -> Contact:
    return Contact(_endpoint(fields, "public"), _endpoints(fields, "private"), _pake(fields))


def _session(fields: Json) -> SessionId:
    return SessionId(_matching(fields, "session", SESSION_ID, "4 to 32 lower-case letters and digits"))


def _pake(fields: Json) -> str | None:
    if "pake" not in fields:
        raise FrameError("pake: missing")
    return None if fields["pake"] is None else _matching(fields, "pake", _PAKE, "16 to 64 bytes in hex, or null")


def _text(fields: Json, name: str, limit: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
        raise FrameError(f"{name}: {_short(value)} cannot be used; expected 1 to {limit} printable characters")
    return value


def _matching(fields: Json, name: str, pattern: re.Pattern[str], expected: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise FrameError(f"{name}: {_short(value)} cannot be used; expected {expected}")
    return value


def _endpoint(fields: Json, name: str) -> Endpoint:
    return _to_endpoint(name, fields.get(name))


def _endpoints(fields: Json, name: str) -> tuple[Endpoint, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > MAX_PRIVATE:
        raise FrameError(f"{name}: expected a list of at most {MAX_PRIVATE} endpoints")
    return tuple(_to_endpoint(name, each) for each in value)


def _to_endpoint(name: str, value: object) -> Endpoint:
    try:
        endpoint = Endpoint.parse(value) if isinstance(value, str) else None
    except InputError:
        endpoint = None
    if endpoint is None or not endpoint.is_unicast:
        raise FrameError(f"{name}: {_short(value)} cannot be used; expected a unicast IPv4 address and a port")
    return endpoint


def printable(text: str) -> str:
    """What somebody else wrote, for a terminal: what is not printable is a question mark."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _short(value: object) -> str:
    """`value` for a message: bounded (a WebSocket close reason holds 123 bytes) and in ASCII."""
    text = ascii(value)
    return text if len(text) <= 32 else text[:29] + "..."
