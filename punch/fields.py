"""Frames as text, and their fields one by one: each is checked, and refused in words that can be sent back."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, cast

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, FrameError

Json = dict[str, Any]

_TOKEN = re.compile(r"[0-9a-f]{16,64}")


def encode(kind: str, fields: Json) -> str:
    """A frame as text."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def decode(frame: str | bytes, *expected: str) -> tuple[str, Json]:
    """The type and the fields of a frame whose type must be one of `expected`. Raises `FrameError`."""
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
        raise FrameError(f"unexpected type {short(kind)}; expected {' or '.join(expected)}")
    return kind, cast("Json", value)


def token_field(fields: Json, name: str) -> str:
    """A field of hex digits: a random name, or a proof. Raises `FrameError`."""
    return matching_field(fields, name, _TOKEN, "16 to 64 hex digits")


def text_field(fields: Json, name: str, limit: int) -> str:
    """A field of 1 to `limit` printable characters. Raises `FrameError`."""
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
        raise FrameError(f"{name}: {short(value)} cannot be used; expected 1 to {limit} printable characters")
    return value


def matching_field(fields: Json, name: str, pattern: re.Pattern[str], expected: str) -> str:
    """A field that is `expected`, in words, and matches `pattern`. Raises `FrameError`."""
    value = fields.get(name)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise FrameError(f"{name}: {short(value)} cannot be used; expected {expected}")
    return value


def endpoint_field(fields: Json, name: str) -> Endpoint:
    """A field with a unicast endpoint. Raises `FrameError`."""
    return _to_endpoint(name, fields.get(name))


def endpoints_field(fields: Json, name: str, limit: int) -> tuple[Endpoint, ...]:
    """A field with a list of at most `limit` unicast endpoints. Raises `FrameError`."""
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > limit:
        raise FrameError(f"{name}: expected a list of at most {limit} endpoints")
    return tuple(_to_endpoint(name, each) for each in value)


def _to_endpoint(name: str, value: object) -> Endpoint:
    try:
        endpoint = Endpoint.parse(value) if isinstance(value, str) else None
    except ArgumentError:
        endpoint = None
    if endpoint is None or not endpoint.is_unicast:
        raise FrameError(f"{name}: {short(value)} cannot be used; expected a unicast IP address and a port")
    return endpoint


def ascii_field(fields: Json, name: str, limit: int) -> str:
    """A field of printable ASCII, which takes at most twice its length in a frame. Raises `FrameError`."""
    value = text_field(fields, name, limit)
    if not value.isascii():
        raise FrameError(f"{name}: {short(value)} cannot be used; expected ASCII characters")
    return value


def ipv6_field(fields: Json, name: str) -> Endpoint:
    """A field with an IPv6 endpoint that others can reach. Raises `FrameError`."""
    endpoint = endpoint_field(fields, name)
    if endpoint.family != socket.AF_INET6 or endpoint.is_link_local:
        raise FrameError(f"{name}: {short(str(endpoint))} cannot be used; expected an IPv6 address that is not local")
    return endpoint


def short(value: object) -> str:
    """`value` for a message: bounded (a WebSocket close reason holds 123 bytes) and in ASCII."""
    text = ascii(value)
    return text if len(text) <= 32 else text[:29] + "..."
