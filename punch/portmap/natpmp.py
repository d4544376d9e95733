"""NAT-PMP, the NAT Port Mapping Protocol (RFC 6886).

request    version 0, opcode (0 address, 2 map TCP)                          2 bytes; an address request ends here
           reserved, internal port, suggested external port, lifetime        10 bytes
response   version 0, opcode + 128, result, seconds since start of epoch     8 bytes
           external address, or internal port, external port, lifetime       4 or 8 bytes
"""

from __future__ import annotations

import socket
import struct

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap.datagrams import PORT, ask

_ADDRESS, _MAP_TCP, _ANSWER = 0, 2, 128
_RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}  # RFC 6886 section 3.5


class NatPmp:
    """A mapping of `port` (the same external port if that is free) by the router `gateway`."""

    name = "NAT-PMP"

    def __init__(self, gateway: str, port: int) -> None:
        self._server = Endpoint(gateway, PORT)
        self._port = self._external_port = port
        self._ip = ""

    async def find(self) -> None:
        """See `Mapper`."""
        answer = await self._ask(_ADDRESS, b"", 12)
        self._ip = socket.inet_ntoa(answer[8:12])

    async def request(self, lifetime_s: int) -> Endpoint:
        """See `Mapper`."""
        await self.find()  # the address may have changed at a renewal
        self._external_port, _lifetime = await self._map(self._external_port, lifetime_s)
        return Endpoint(self._ip, self._external_port)

    async def remove(self) -> None:
        """See `Mapper`. External port 0 and lifetime 0 delete the mapping (section 3.4)."""
        await self._map(0, 0)

    async def _map(self, external_port: int, lifetime_s: int) -> tuple[int, int]:
        answer = await self._ask(_MAP_TCP, struct.pack("!2xHHI", self._port, external_port, lifetime_s), 16)
        internal_port, external_port, lifetime_s = struct.unpack_from("!HHI", answer, 8)
        if internal_port != self._port:
            raise PortMappingError(f"{self._server}: the response is for another port")
        return external_port, lifetime_s

    async def _ask(self, opcode: int, fields: bytes, length: int) -> bytes:
        answer = await ask(
            self._server,
            bytes((0, opcode)) + fields,
            # A server without this version answers with its own version (section 3.5), a PCP server with a PCP header.
            lambda answer: len(answer) >= 4 and (answer[0] != 0 or answer[1] == _ANSWER + opcode),
        )
        result = int.from_bytes(answer[2:4]) if answer[0] == 0 else 1
        if result != 0:
            raise PortMappingError(f"{self._server}: {_RESULTS.get(result, f'result code {result}')}")
        if len(answer) < length:
            raise PortMappingError(f"{self._server}: truncated response")
        return answer
