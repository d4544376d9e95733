"""STUN Binding messages: RFC 5389 with the attributes of RFC 5780 (NAT behavior discovery).

    header      2 bytes type, 2 bytes length of what follows the header, 4 bytes magic cookie, 12 bytes transaction
    attribute   2 bytes type, 2 bytes length, value, padding to a multiple of 4

Only the method Binding and IPv4 are supported. A receiver must understand attributes below 0x8000; unknown ones are
listed in `not_understood`, so that a server can reject the request. If an attribute occurs twice, the first one counts.
"""

from __future__ import annotations

import ipaddress
import secrets
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import FrameError

HEADER_SIZE = 20
PORT = 3478
UNKNOWN_ATTRIBUTE = 420

_COOKIE = 0x2112A442
_FINGERPRINT_XOR = 0x5354554E
_IPV4 = 1
_CHANGE_ADDRESS, _CHANGE_PORT = 4, 2


class MessageClass(IntEnum):
    """The class of a Binding message, as the complete type field."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101
    ERROR = 0x0111


class _Attribute(IntEnum):
    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    XOR_MAPPED_ADDRESS = 0x0020
    RESPONSE_PORT = 0x0027
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


CHANGE_REQUEST = int(_Attribute.CHANGE_REQUEST)
RESPONSE_PORT = int(_Attribute.RESPONSE_PORT)


@dataclass(frozen=True, slots=True)
class Change:
    """CHANGE-REQUEST: answer from the other address, from the other port, or both."""

    address: bool
    port: bool


def fresh_transaction() -> bytes:
    """Return an unpredictable transaction identifier of 12 bytes."""
    return secrets.token_bytes(12)


@dataclass(frozen=True, slots=True)
class Message:
    """One Binding message; an absent attribute is None or empty.

    `mapped` is read from XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS without that; both are written. `error` is the code and
    the reason, `unknown` the attribute types in an error 420. `fingerprint` adds one on encoding; after decoding it
    means that a correct one was present.
    """

    kind: MessageClass
    transaction: bytes = field(default_factory=fresh_transaction)
    mapped: Endpoint | None = None
    change: Change | None = None
    response_port: int | None = None
    origin: Endpoint | None = None
    other: Endpoint | None = None
    error: tuple[int, str] | None = None
    unknown: tuple[int, ...] = ()
    fingerprint: bool = False
    not_understood: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the message as bytes, without `not_understood`."""
        body = b"".join(_attribute(kind, value) for kind, value in self._attributes())
        if not self.fingerprint:
            return _header(self.kind, len(body), self.transaction) + body
        covered = _header(self.kind, len(body) + 8, self.transaction) + body
        return covered + _attribute(_Attribute.FINGERPRINT, struct.pack("!I", zlib.crc32(covered) ^ _FINGERPRINT_XOR))

    def _attributes(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        if self.mapped is not None:
            found.append((_Attribute.MAPPED_ADDRESS, _address(self.mapped)))
            found.append((_Attribute.XOR_MAPPED_ADDRESS, _address(_xored(self.mapped))))
        if self.change is not None:
            flags = _CHANGE_ADDRESS * self.change.address | _CHANGE_PORT * self.change.port
            found.append((_Attribute.CHANGE_REQUEST, struct.pack("!I", flags)))
        if self.response_port is not None:
            found.append((_Attribute.RESPONSE_PORT, struct.pack("!HH", self.response_port, 0)))
        if self.origin is not None:
            found.append((_Attribute.RESPONSE_ORIGIN, _address(self.origin)))
        if self.other is not None:
            found.append((_Attribute.OTHER_ADDRESS, _address(self.other)))
        if self.error is not None:
            code, reason = self.error
            found.append((_Attribute.ERROR_CODE, struct.pack("!HBB", 0, *divmod(code, 100)) + reason.encode()))
        if self.unknown:
            found.append((_Attribute.UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(self.unknown)}H", *self.unknown)))
        return found


def decode(data: bytes) -> Message:
    """Return the message in one datagram. Raises `FrameError` unless it is exactly one well-formed Binding message."""
    kind, length, transaction = decode_header(data)
    if len(data) != HEADER_SIZE + length:
        raise FrameError(f"STUN: expected {length} bytes after the header, got {len(data) - HEADER_SIZE}")
    values: dict[int, bytes] = {}
    position = HEADER_SIZE
    while position < len(data):
        if _Attribute.FINGERPRINT in values:
            raise FrameError("STUN: an attribute after FINGERPRINT")
        number, size = struct.unpack_from("!HH", data, position)
        value = data[position + 4 : position + 4 + size]
        if len(value) != size:
            raise FrameError(f"STUN: attribute {number:#06x} is truncated")
        if number == _Attribute.FINGERPRINT:
            _check_fingerprint(data[:position], value)
        values.setdefault(number, value)
        position += 4 + size + -size % 4
    return _message(kind, transaction, values)


def decode_header(data: bytes) -> tuple[MessageClass, int, bytes]:
    """Return class, length of what follows the header, and transaction. Raises `FrameError`."""
    if len(data) < HEADER_SIZE:
        raise FrameError(f"STUN: expected a header of {HEADER_SIZE} bytes, got {len(data)}")
    number, length, cookie, transaction = struct.unpack_from("!HHI12s", data)
    if cookie != _COOKIE or length % 4 or number not in set(MessageClass):
        raise FrameError("STUN: expected the header of a Binding message")
    return MessageClass(number), length, transaction


def _message(kind: MessageClass, transaction: bytes, values: dict[int, bytes]) -> Message:
    def endpoint(number: _Attribute) -> Endpoint | None:
        return _read_address(values[number]) if number in values else None

    xored = endpoint(_Attribute.XOR_MAPPED_ADDRESS)
    mapped = endpoint(_Attribute.MAPPED_ADDRESS)
    return Message(
        kind,
        transaction,
        mapped=mapped if xored is None else _xored(xored),
        change=_read_change(values.get(_Attribute.CHANGE_REQUEST)),
        response_port=_read_port(values.get(_Attribute.RESPONSE_PORT)),
        origin=endpoint(_Attribute.RESPONSE_ORIGIN),
        other=endpoint(_Attribute.OTHER_ADDRESS),
        error=_read_error(values.get(_Attribute.ERROR_CODE)),
        unknown=_read_unknown(values.get(_Attribute.UNKNOWN_ATTRIBUTES, b"")),
        fingerprint=_Attribute.FINGERPRINT in values,
        not_understood=tuple(number for number in values if number < 0x8000 and number not in set(_Attribute)),
    )


def _header(kind: MessageClass, length: int, transaction: bytes) -> bytes:
    return struct.pack("!HHI12s", kind, length, _COOKIE, transaction)


def _attribute(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value + bytes(-len(value) % 4)


def _address(endpoint: Endpoint) -> bytes:
    return struct.pack("!BBH4s", 0, _IPV4, endpoint.port, ipaddress.IPv4Address(endpoint.ip).packed)


def _xored(endpoint: Endpoint) -> Endpoint:
    """Apply the XOR of RFC 5389 section 15.2, which is its own inverse."""
    return Endpoint(
        str(ipaddress.IPv4Address(int(ipaddress.IPv4Address(endpoint.ip)) ^ _COOKIE)), endpoint.port ^ (_COOKIE >> 16)
    )


def _read_address(value: bytes) -> Endpoint:
    if len(value) != 8 or value[1] != _IPV4:
        raise FrameError("STUN: expected an IPv4 address")
    _zero, _family, port, packed = struct.unpack("!BBH4s", value)
    return Endpoint(str(ipaddress.IPv4Address(packed)), port)


def _read_change(value: bytes | None) -> Change | None:
    if value is None:
        return None
    if len(value) != 4:
        raise FrameError("STUN: expected CHANGE-REQUEST with 4 bytes")
    return Change(address=bool(value[3] & _CHANGE_ADDRESS), port=bool(value[3] & _CHANGE_PORT))


def _read_port(value: bytes | None) -> int | None:
    if value is None:
        return None
    # RFC 5780 adds two bytes of padding; implementations differ in whether the length includes them.
    if len(value) not in (2, 4):
        raise FrameError("STUN: expected RESPONSE-PORT with 2 or 4 bytes")
    return int.from_bytes(value[:2])


def _read_error(value: bytes | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise FrameError("STUN: expected ERROR-CODE with a code from 300 to 699")
    try:
        return (value[2] & 7) * 100 + value[3], value[4:].decode()
    except UnicodeDecodeError:
        raise FrameError("STUN: expected UTF-8 in the reason of ERROR-CODE") from None


def _read_unknown(value: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise FrameError("STUN: expected a list of types in UNKNOWN-ATTRIBUTES")
    return struct.unpack(f"!{len(value) // 2}H", value)


def _check_fingerprint(covered: bytes, value: bytes) -> None:
    if value != struct.pack("!I", zlib.crc32(covered) ^ _FINGERPRINT_XOR):
        raise FrameError("STUN: FINGERPRINT does not match")
