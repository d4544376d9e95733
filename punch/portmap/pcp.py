"""PCP, the Port Control Protocol (RFC 6887): the opcodes ANNOUNCE, to detect a server, and MAP.

    header   version 2, opcode (responses: + 128), reserved, result (responses)  4 bytes
             lifetime                                                            4 bytes
             request: client address; response: epoch time, reserved             16 bytes
    MAP      nonce (12), protocol, reserved (3), internal port, external port, external address (16)

Addresses are IPv6 addresses, IPv4 within ::ffff:0:0/96. The nonce is the secret that authorizes renewal and removal.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap.datagrams import PORT, ask

_VERSION, _ANNOUNCE, _MAP, _ANSWER = 2, 0, 1, 128
_HEADER_BYTES, _MAP_BYTES = 24, 36
_RESULTS = (
    *("success", "unsupported version", "not authorized", "malformed request"),
    *("unsupported opcode", "unsupported option", "malformed option", "network failure"),
    *("out of resources", "unsupported protocol", "the user has too many mappings"),
    *("cannot provide the external endpoint", "address mismatch (another NAT in between)", "too many remote peers"),
)  # RFC 6887 section 7.4


class Pcp:
    """A mapping of the local endpoint (the same external port if that is free) by the router `gateway`."""

    name = "PCP"

    def __init__(self, gateway: str, local: Endpoint) -> None:
        self._server = Endpoint(gateway, PORT)
        self._local = local
        self._external = Endpoint("0.0.0.0", local.port)  # noqa: S104 (no suggested address, section 11.1)
        self._nonce = secrets.token_bytes(12)

    async def find(self) -> None:
        """See `Mapper`."""
        await self._ask(_ANNOUNCE, 0, b"")

    async def request(self, lifetime_s: int) -> Endpoint:
        """See `Mapper`."""
        self._external = await self._map(lifetime_s)
        return self._external

    async def remove(self) -> None:
        """See `Mapper`. Lifetime 0 deletes the mapping (section 15)."""
        await self._map(0)

    async def _map(self, lifetime_s: int) -> Endpoint:
        named = struct.pack("!12sB3xH", self._nonce, socket.IPPROTO_TCP, self._local.port)
        fields = named + struct.pack("!H", self._external.port) + _mapped(self._external.ip)
        answer = await self._ask(_MAP, lifetime_s, fields)
        ip = ipaddress.IPv6Address(answer[44:60]).ipv4_mapped
        if ip is None:
            raise PortMappingError(f"{self._server}: the external address is not an IPv4 address")
        return Endpoint(str(ip), int.from_bytes(answer[42:44]))

    async def _ask(self, opcode: int, lifetime_s: int, fields: bytes) -> bytes:
        def fits(answer: bytes) -> bool:
            if len(answer) < 4 or answer[0] != _VERSION:
                return len(answer) >= 4  # a NAT-PMP server answers with its own version (RFC 6886 section 3.5)
            ours = opcode != _MAP or len(answer) < _HEADER_BYTES + 18 or answer[24:42] == fields[:18]
            return answer[1] == _ANSWER + opcode and ours

        question = struct.pack("!BBHI", _VERSION, opcode, 0, lifetime_s) + _mapped(self._local.ip) + fields
        answer = await ask(self._server, question, fits)
        result = answer[3] if answer[0] == _VERSION else 1
        if result != 0:
            reason = _RESULTS[result] if result < len(_RESULTS) else f"result code {result}"
            raise PortMappingError(f"{self._server}: {reason}")
        if len(answer) < _HEADER_BYTES + (_MAP_BYTES if opcode == _MAP else 0):
            raise PortMappingError(f"{self._server}: truncated response")
        return answer


def _mapped(ip: str) -> bytes:
    return ipaddress.IPv6Address(f"::ffff:{ip}").packed
