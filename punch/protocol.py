"""The documentation of the protocol: all frames with their fields, generated from their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from punchlab.punch import frames, reflexive, relay
from punchlab.punch.codec import fields_of
from punchlab.punch.probe import frames as probe

_EDGE, _CLIENT, _BOTH = "edge to client", "client to edge", "edge to edge"

PARTS: tuple[tuple[str, tuple[tuple[type[Any], str], ...]], ...] = (
    (
        "Rendezvous: WebSocket path `/`",
        (
            (frames.Register, _CLIENT),
            (frames.Welcome, _EDGE),
            (frames.Peer, _EDGE),
            (frames.PeerSignal, "both directions"),
        ),
    ),
    (f"IPv6 reflexive address: WebSocket path `{reflexive.PATH}`", ((reflexive.Seen, _EDGE),)),
    (f"Relay: WebSocket path `{relay.PATH}`", ((relay.Join, _CLIENT), (relay.Joined, _EDGE))),
    (
        f"Probe: WebSocket path `{probe.PATH}`",
        ((probe.Vantage, _EDGE), (probe.Dial, _CLIENT), (probe.Dialled, _EDGE), (probe.Refused, _EDGE)),
    ),
    ("Bus: WebSocket path `/mesh`, or NATS", ((frames.Hello, _BOTH), (frames.Message, _BOTH))),
    ("Bus: objects in the field `body` of `message`", tuple((body, _BOTH) for body in frames.BODIES)),
)
"""Titles, and the frame classes with their directions."""


def markdown() -> str:
    """Return the page `docs/protocol.md`."""
    return "\n".join(_page()).rstrip() + "\n"


def _page() -> Iterator[str]:
    yield "# Protocol of clients and edges\n"
    yield "<!-- Generated: python -m punchlab.punch.protocol > docs/protocol.md -->\n"
    yield f"A frame is one WebSocket text message of at most {frames.MAX_FRAME} bytes: a JSON object with a `type`."
    yield "The receiver rejects a frame with an invalid field, and ignores unknown fields. An endpoint is"
    yield "written `ip:port` or `[ipv6]:port`, with the address in its canonical form.\n"
    for title, classes in PARTS:
        yield f"## {title}\n"
        for cls, direction in classes:
            yield f"### `{cls.TYPE}` ({direction})\n"
            yield from _described(cls)
    yield "## Contact\n"
    yield from _described(frames.Contact)


def _described(cls: type[Any]) -> Iterator[str]:
    yield f"{inspect.cleandoc(cls.__doc__ or '')}\n"
    fields = fields_of(cls)
    if not fields:
        yield "No fields.\n"
        return
    yield "| field | value | presence |"
    yield "| --- | --- | --- |"
    for field in fields:
        if field.inline is not None:
            yield f"| fields of `{field.inline.__name__}` | | |"
        else:
            presence = f"with `{field.kind.only_with}`" if field.kind.only_with else _presence(optional=field.optional)
            yield f"| `{field.name}` | {field.kind.describe()} | {presence} |"
    yield ""


def _presence(*, optional: bool) -> str:
    return "optional" if optional else "required"


if __name__ == "__main__":
    print(markdown(), end="")
