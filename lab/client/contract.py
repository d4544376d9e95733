"""The contract between the lab and a client under test: the events that its commands print, and placeholders.

A command prints one JSON object per line on standard output. The lab checks objects whose `event` is in `EVENTS`; it
ignores other events, other objects and lines that are not JSON. `EVENTS` and `PLACEHOLDERS` are the only definition:
they generate the validation and the tables in the documentation (`events_table`, `placeholders_table`).

A command is an untrusted program. For any line, `event_on` returns an event that can be written to any file (no lone
surrogates) with at most `DEEPEST` levels of nesting, or raises `ClientError`.
"""

from __future__ import annotations

import ipaddress
import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from punchlab.lab.errors import ClientError

EDGE, SENDER, RECEIVER = "edge", "sender", "receiver"
HOSTS = (SENDER, RECEIVER)
ROLES = (EDGE, *HOSTS)

FAILURES = ("wrong_peer", "client_error", "no_rendezvous", "hopeless", "refused", "punch_timeout")
"""The outcomes that a client can report."""

MARK = b'"event"'
"""Every line with an event contains this."""

DEEPEST = 100
"""The maximum nesting of objects and arrays in an event."""

_CODE_CHARACTERS, _TEXT_CHARACTERS = 1024, 1000
_SCOPE_CHARACTERS = 15
"""The maximum length of an interface name (IFNAMSIZ without the final NUL)."""
_INT_DIGITS = 400
"""More digits than any float has."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a field: a description, and a function that returns the value for the lab or raises ValueError."""

    words: str
    take: Callable[[object], object]


def _instant(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    text: str = _without_surrogates(value[:_TEXT_CHARACTERS])
    return text


def _code(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _CODE_CHARACTERS or len(value.splitlines()) != 1:
        raise ValueError
    if value.splitlines()[0] != value or "\0" in value:
        raise ValueError
    value.encode()  # UnicodeEncodeError is a ValueError
    return value


def _endpoint(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    host, _colon, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16):
        raise ValueError
    if host.startswith("[") and host.endswith("]"):
        # Captures do not show the interface of a link-local address (RFC 4007).
        plain, percent, scope = host[1:-1].partition("%")
        if percent and not (scope.isascii() and scope.isprintable() and 0 < len(scope) <= _SCOPE_CHARACTERS):
            raise ValueError
        address6 = ipaddress.IPv6Address(plain)
        # A dual-stack socket returns an IPv4 endpoint in this form.
        return f"{address6.ipv4_mapped}:{int(port)}" if address6.ipv4_mapped else f"[{address6}]:{int(port)}"
    return f"{ipaddress.IPv4Address(host)}:{int(port)}"


def _failure(value: object) -> str:
    if value not in FAILURES:
        raise ValueError
    return str(value)


INSTANT = Kind("a number of seconds of CLOCK_MONOTONIC", _instant)
TEXT = Kind(f"text, truncated to {_TEXT_CHARACTERS} characters", _text)
CODE = Kind(f"one line of 1 to {_CODE_CHARACTERS} characters", _code)
ENDPOINT = Kind("an endpoint such as 11.0.0.1:7000 or [2a11::1]:7000", _endpoint)
FAILURE = Kind(f"one of {', '.join(FAILURES)}", _failure)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event. An optional field that is absent or null has the value `default`."""

    name: str
    kind: Kind
    meaning: str
    required: bool = True
    default: object = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An event that the lab reads: who prints it, whether a trial requires it, and its fields besides `t`."""

    name: str
    roles: Sequence[str]
    needed: str
    meaning: str
    fields: Sequence[Field] = ()


TIME = Field(
    "t",
    INSTANT,
    "the time of the event. The lab uses the time of receipt if it is missing or, on a host, not between the start of "
    "the command and the receipt of the line",
    required=False,
)

EVENTS: Mapping[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule("listening", (EDGE,), "yes", "the edge accepts connections"),
            Rule(
                "joined",
                (EDGE,),
                "with `{join}` or `{bus}`",
                "the edge is connected to another edge: once per edge, or once for the bus",
            ),
            Rule(
                "code",
                (SENDER,),
                "with `tells_code`",
                "the code to share",
                (Field("code", CODE, "the line that the receiver reads from standard input"),),
            ),
            Rule("peer_known", HOSTS, "no", "the client knows the endpoints of its peer"),
            Rule("first_syn", HOSTS, "no", "the first connect() to the peer"),
            Rule(
                "attempt",
                HOSTS,
                "no",
                "a connect() has completed or failed",
                (Field("kind", TEXT, "`srflx` attempts count as `attempts`", required=False),),
            ),
            Rule("connected", HOSTS, "no", "a connection to the peer is established"),
            Rule(
                "agreed",
                HOSTS,
                "no",
                "both clients have selected this connection",
                (
                    Field("local", ENDPOINT, "the local endpoint"),
                    Field("remote", ENDPOINT, "the remote endpoint, as this host sees it"),
                ),
            ),
            Rule("done", HOSTS, "no", "the file transfer is complete"),
            Rule(
                "failed",
                HOSTS,
                "for an outcome other than `client_error`",
                "the client gives up and then exits with a nonzero status",
                (
                    Field("outcome", FAILURE, "the outcome"),
                    Field("reason", TEXT, "a reason for humans", required=False, default="no reason given"),
                ),
            ),
        )
    }
)
"""Event -> its rule."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A command of a client in its role (one of `ROLES`), and its node. `client` is None for other commands."""

    client: str | None
    role: str | None
    node: str

    def __str__(self) -> str:
        if self.client is None:
            return self.node
        return f"client {self.client}, {f'edge {self.node}' if self.role == EDGE else self.role}"

    def error(self, what: str) -> ClientError:
        """Return an error of this command."""
        return ClientError(f"{self}: {what}")


def event_on(line: bytes, speaker: Speaker, started: float, received: float) -> Event | None:
    """Return the event in a line of output, with a float `t` and the fields of its rule, or None.

    `started` and `received` are the times (CLOCK_MONOTONIC) when the command started and when the line was received.
    Events that are not in `EVENTS` for this role can have any fields. Raises `ClientError` naming client, role and
    field.
    """
    if MARK not in line:
        return None
    try:
        event = _DECODER.decode(line.decode(errors="replace").removeprefix("\ufeff"))
    except RecursionError:
        raise speaker.error(_TOO_DEEP) from None
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(event) > DEEPEST:
        raise speaker.error(_TOO_DEEP)
    taken: dict[str, Any] = _without_surrogates(event) if b"\\u" in line else {**event}
    rule = EVENTS.get(event["event"])
    if rule is None or speaker.role not in rule.roles:
        try:
            taken["t"] = _instant(event.get("t"))
        except ValueError:
            taken["t"] = received
        return taken
    for field in (TIME, *rule.fields):
        taken[field.name] = _taken(event, field, speaker)
    moment = taken["t"]
    if moment is None or (speaker.role in HOSTS and not started <= moment <= received):
        taken["t"] = received
    return taken


def _taken(event: Event, field: Field, speaker: Speaker) -> object:
    value = event.get(field.name)
    if value is None and not field.required:
        return field.default
    try:
        return field.kind.take(value)
    except ValueError:
        wrong = "missing" if value is None else f"{_SHORT.repr(value)} cannot be used"
        place = f"event {event['event']!r}, field {field.name!r}"
        raise speaker.error(f"{place}: {wrong}; expected {field.kind.words}") from None


def _depth(value: object) -> int:
    """Return the nesting of objects and arrays, without recursion."""
    deepest, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        deepest += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return deepest


def _without_surrogates(value: Any) -> Any:
    """Return a JSON value with a question mark for each lone surrogate, which files and terminals reject."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    return value


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _INT_DIGITS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_int)
_TOO_DEEP = f"an event is nested more than {DEEPEST} levels"
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 2, 60, 60, 60


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A name in braces in a command. `always`: it has a value in every trial."""

    name: str
    roles: Sequence[str]
    meaning: str
    always: bool = True


PLACEHOLDERS: Mapping[str, Placeholder] = MappingProxyType(
    {
        each.name: each
        for each in (
            Placeholder("python", ROLES, "this interpreter"),
            Placeholder("listen", (EDGE,), "the endpoint to listen on"),
            Placeholder(
                "listen6", (EDGE,), "the IPv6 endpoint to listen on, in topologies with IPv6 edges", always=False
            ),
            Placeholder("name", (EDGE,), "the name of the node"),
            Placeholder("url", (EDGE,), "the unicast URL of this edge"),
            Placeholder(
                "join", (EDGE,), "the URL of another edge; the tuple is repeated for each other edge", always=False
            ),
            Placeholder("bus", (EDGE,), "comma-separated URLs of NATS servers, in a lab with these", always=False),
            Placeholder("stun", (EDGE,), "the endpoint that answers STUN"),
            Placeholder("alternate", (EDGE,), "the STUN endpoint at the second address, if any", always=False),
            Placeholder("edge", HOSTS, "the anycast URL of the edges, `ws://ADDRESS:PORT`"),
            Placeholder("file", HOSTS, "the file to send"),
            Placeholder("directory", HOSTS, "the directory in which the receiver stores it, under the same name"),
            Placeholder("code", HOSTS, "the shared code, without `tells_code`"),
            Placeholder("strategy", HOSTS, "option of the trial"),
            Placeholder("deadline_s", HOSTS, "option of the trial, in seconds"),
            Placeholder("max_attempts", HOSTS, "option of the trial, if set", always=False),
            Placeholder(
                "start_at", HOSTS, "the time of the first SYN (CLOCK_MONOTONIC), in a trial with `skew_s`", always=False
            ),
            Placeholder("relay", HOSTS, "`--relay`, in a trial that allows a relay", always=False),
        )
    }
)
"""Name -> placeholder."""


def events_table() -> str:
    """Return the events as a Markdown table."""
    rows = [("any", ", ".join(ROLES), f"`{TIME.name}`", TIME.kind.words, "no", TIME.meaning)]
    for rule in EVENTS.values():
        roles = ", ".join(rule.roles)
        rows.append((f"`{rule.name}`", roles, "", "", rule.needed, rule.meaning))
        for field in rule.fields:
            needed = "yes" if field.required else "no"
            rows.append((f"`{rule.name}`", roles, f"`{field.name}`", field.kind.words, needed, field.meaning))
    return _table(("event", "from", "field", "type", "required", "meaning"), rows)


def placeholders_table() -> str:
    """Return the placeholders as a Markdown table."""
    rows = [
        (f"`{{{each.name}}}`", ", ".join(each.roles), "yes" if each.always else "no", each.meaning)
        for each in PLACEHOLDERS.values()
    ]
    return _table(("placeholder", "in the command of", "in every trial", "value"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines) + "\n"
