"""The types of the fields of a frame.

A `FieldType` is declared once. It decodes and validates a JSON value, encodes a value, and describes itself in error
messages and in the documentation (`punch.protocol`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError

Json = dict[str, Any]

MAX_URL = 128  # characters of the URL of an edge


def _identity(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class FieldType:
    """The type of a field.

    `decode` converts a JSON value; it raises `ValueError` if the value is not `expected`, and `FrameError` if it has a
    better message. `encode` converts a value for `json.dumps`. If `nullable`, the value may be null, which is None; it
    may also be absent unless it is `required`. If `only_with` is set, the field is ignored without the field of that
    name, and required with it.
    """

    expected: str
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any] = _identity
    nullable: bool = False
    required: bool = True
    only_with: str | None = None

    @property
    def or_null(self) -> FieldType:
        """The same type, but null is valid."""
        return replace(self, nullable=True)

    @property
    def or_absent(self) -> FieldType:
        """The same type, but null is valid, and so is an absent field."""
        return replace(self, nullable=True, required=False)

    def given(self, other: str) -> FieldType:
        """The same type, but ignored without the field `other`, and required with it."""
        return replace(self, only_with=other)

    def read(self, name: str, value: Any) -> Any:
        """Decode the value of the field `name`. Raises `FrameError`."""
        if value is None and self.nullable:
            return None
        try:
            return self.decode(value)
        except FrameError:
            raise
        except ValueError:
            raise FrameError(f"{name}: {short(value)} cannot be used; expected {self.describe()}") from None

    def write(self, value: Any) -> Any:
        """Encode a value."""
        return None if value is None else self.encode(value)

    def describe(self) -> str:
        """Return a description of valid values, for error messages and the documentation."""
        return f"{self.expected}, or null" if self.nullable and self.required else self.expected


def short(value: object) -> str:
    """Return `value` in at most 32 ASCII characters, because the reason of a close frame has at most 123 bytes."""
    try:
        text = ascii(value)
    except RecursionError:
        return "a nested value"
    return text if len(text) <= 32 else text[:29] + "..."


def checked(
    expected: str,
    accepts: Callable[[Any], bool],
    convert: Callable[[Any], Any] = _identity,
    encode: Callable[[Any], Any] = _identity,
) -> FieldType:
    """A value that `accepts` accepts; `convert` converts it, and may raise `ValueError`."""

    def decode(value: Any) -> Any:
        if not accepts(value):
            raise ValueError
        return convert(value)

    return FieldType(expected, decode, encode)


def _is_text(value: Any, limit: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= limit and value.isprintable()


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def text(limit: int) -> FieldType:
    """A text of 1 to `limit` printable characters."""
    return checked(f"1 to {limit} printable characters", lambda value: _is_text(value, limit))


def ascii_text(limit: int) -> FieldType:
    """A text of 1 to `limit` printable ASCII characters, each of which needs at most two bytes in a frame."""
    expected = f"1 to {limit} printable ASCII characters"
    return checked(expected, lambda value: _is_text(value, limit) and value.isascii())


def matching(pattern: re.Pattern[str], expected: str) -> FieldType:
    """A text that matches `pattern` completely."""
    return checked(expected, lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None)


def choice(*values: str) -> FieldType:
    """One of several texts."""
    return checked(" or ".join(values), lambda value: isinstance(value, str) and value in values)


def number(most: float, *, digits: int | None = None) -> FieldType:
    """A number from 0 to `most`, encoded with at most `digits` digits after the decimal point."""
    encode = _identity if digits is None else partial(round, ndigits=digits)
    return checked(f"a number from 0 to {most:.15g}", lambda value: _is_number(value, 0, most), float, encode)


def whole(least: int, most: int) -> FieldType:
    """A whole number from `least` to `most`, with or without a decimal point."""
    expected = f"a whole number from {least} to {most}"
    return checked(expected, lambda value: _is_number(value, least, most) and value == int(value), int)


def array(items: FieldType, lengths: Sequence[int], expected: str) -> FieldType:
    """A list of one of several `lengths`; `expected` describes it. Its value is a tuple."""
    return checked(
        expected,
        lambda value: isinstance(value, list) and len(value) in lengths,
        lambda value: tuple(map(items.decode, value)),
        lambda value: [items.encode(each) for each in value],
    )


def _endpoint(expected: str, accepts: Callable[[Endpoint], bool]) -> FieldType:
    def decode(value: Any) -> Endpoint:
        endpoint = Endpoint.parse(value) if isinstance(value, str) else None
        if endpoint is None or not endpoint.is_unicast or not accepts(endpoint):
            raise ValueError
        return endpoint

    return FieldType(expected, decode, str)


TOKEN = matching(re.compile(r"[0-9a-f]{16,64}"), "16 to 64 hex digits")
ENDPOINT = _endpoint("a unicast IP address and a port", lambda _endpoint: True)
IPV4_ENDPOINT = _endpoint("a unicast IPv4 address and a port", lambda each: each.family == socket.AF_INET)
IPV6_ENDPOINT = _endpoint(
    "an IPv6 address that is not link-local, and a port",
    lambda each: each.family == socket.AF_INET6 and not each.is_link_local,
)
EDGE_URL = checked(
    f"the URL of an edge (at most {MAX_URL} characters)", lambda value: _is_text(value, MAX_URL), EdgeUrl.parse, str
)
ICMP = checked(
    "type and code of an ICMP message",
    lambda value: isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value),
    tuple,
)
