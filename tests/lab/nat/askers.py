"""Commands on a host that request a mapping from its NAT: miniupnpc's, natpmpc's, and a hand-made PCP packet."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
import struct
from typing import Protocol

from punchlab import Lab

GATEWAY = "192.168.1.1"
IGD = f"http://{GATEWAY}:5000/rootDesc.xml"
PROTOCOL_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
PATIENCE_S = 5.0

Endpoint = tuple[str, int]


class Rejected(Exception):  # noqa: N818 - an answer, not an error
    """The NAT rejected the mapping."""


class Asker(Protocol):
    """Requests or deletes a mapping of the host's port. Returns the external endpoint in the answer."""

    def ask(self, lab: Lab, host: str, transport: str, port: int, external: int, lifetime_s: int) -> Endpoint: ...

    def remove(self, lab: Lab, host: str, transport: str, port: int, external: int) -> None: ...


class Upnpc:
    """UPnP IGD with Debian's miniupnpc. The gateway is discovered by SSDP (`found`), or given by its description's
    URL.
    """

    def __init__(self, *, found: bool = False) -> None:
        self._where = [] if found else ["-u", IGD]

    def ask(self, lab: Lab, host: str, transport: str, port: int, external: int, lifetime_s: int) -> Endpoint:
        own = lab[host].address
        words = ["upnpc", *self._where, "-e", "test", "-a", own, port, external, transport.upper(), lifetime_s]
        printed = lab[host].run([str(word) for word in words], check=False).stdout
        answer = re.search(
            rf"external ([\d.]+):(\d+) {transport.upper()} is redirected to internal {own}:{port} ", printed
        )
        if answer is None:
            raise Rejected(printed)
        return answer[1], int(answer[2])

    def remove(self, lab: Lab, host: str, transport: str, port: int, external: int) -> None:
        printed = lab[host].run(["upnpc", *self._where, "-d", str(external), transport.upper()]).stdout
        assert "UPNP_DeletePortMapping() returned : 0" in printed, (port, printed)


class Natpmpc:
    """NAT-PMP with Debian's natpmpc."""

    def ask(self, lab: Lab, host: str, transport: str, port: int, external: int, lifetime_s: int) -> Endpoint:
        words = ["natpmpc", "-g", GATEWAY, "-a", external, port, transport, lifetime_s]
        printed = lab[host].run([str(word) for word in words], check=False).stdout
        address = re.search(r"Public IP address : ([\d.]+)", printed)
        answer = re.search(rf"Mapped public port (\d+) protocol {transport.upper()} to local port {port} ", printed)
        if address is None or answer is None:
            raise Rejected(printed)
        return address[1], int(answer[1])

    def remove(self, lab: Lab, host: str, transport: str, port: int, external: int) -> None:
        assert self.ask(lab, host, transport, port, external, 0)[1] == 0


class Pcp:
    """PCP's MAP (RFC 6887 section 11)."""

    def __init__(self) -> None:
        self._nonce = secrets.token_bytes(12)

    def ask(self, lab: Lab, host: str, transport: str, port: int, external: int, lifetime_s: int) -> Endpoint:
        def mapped(address: str) -> bytes:
            return ipaddress.IPv6Address(f"::ffff:{address}").packed

        number = PROTOCOL_NUMBERS[transport]
        head = struct.pack("!BBHI", 2, 1, 0, lifetime_s) + mapped(lab[host].address)
        body = struct.pack("!12sB3xHH", self._nonce, number, port, external) + mapped("0.0.0.0")
        answer = exchange(lab, host, GATEWAY, 5351, head + body)
        assert answer is not None
        version, opcode, result = struct.unpack_from("!BBxB", answer)
        assert (version, opcode) == (2, 0x81)
        if result != 0:
            raise Rejected(f"result code {result}")
        nonce, got, inside, outside = struct.unpack_from("!12sB3xHH", answer, 24)
        assert (nonce, got, inside) == (self._nonce, number, port)
        return str(ipaddress.IPv6Address(answer[44:60]).ipv4_mapped), outside

    def remove(self, lab: Lab, host: str, transport: str, port: int, external: int) -> None:
        self.ask(lab, host, transport, port, external, 0)


def exchange(
    lab: Lab, node: str, address: str, port: int, question: bytes, patience_s: float = PATIENCE_S
) -> bytes | None:
    """Return the answer to one datagram, or None."""
    with lab[node].socket(socket.SOCK_DGRAM) as asking:
        asking.settimeout(patience_s)
        asking.sendto(question, (address, port))
        try:
            return asking.recv(1500)
        except TimeoutError:
            return None
