"""Invalid responses of a gateway to a request for a port mapping: no mapping, a reason in one line, within the
timeout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap import datagrams, http, igd, lease
from punchlab.punch.portmap.http import DeviceUrl, ask
from punchlab.punch.portmap.igd import Igd, texts
from punchlab.punch.portmap.natpmp import NatPmp
from punchlab.punch.portmap.pcp import Pcp
from punchlab.punch.portmap.protocol import Mapper
from tests.punch.answers import NO_WEBSOCKET, Answer, Servers, says
from tests.punch.edges import run

LOCAL = Endpoint("127.0.0.1", 40_000)
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


def description(control: str = "/ctl", service: str = SERVICE) -> bytes:
    return (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>'
        f"<service><serviceType>urn:x:Other:1</serviceType><controlURL>/other</controlURL></service>"
        f"<service><serviceType>{service}</serviceType><controlURL>{control}</controlURL></service>"
        f"</serviceList></device></root>"
    ).encode()


def response(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def soap(**texts_: str) -> bytes:
    inside = "".join(f"<{name}>{text}</{name}>" for name, text in texts_.items())
    return f"<s:Envelope xmlns:s='x'><s:Body><u:R xmlns:u='y'>{inside}</u:R></s:Body></s:Envelope>".encode()


def serves(control: bytes, described: bytes | None = None) -> Answer:
    """A device with a valid description, or `described`, that answers `control` to every action."""

    async def answer(request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(described or description()) if request.startswith(b"GET") else control)

    return answer


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in range(ord("b"), ord("j")))
    + b"]><x>&i;</x>"
)

DEVICES: dict[str, Answer] = {
    **NO_WEBSOCKET,
    "no xml": says(response(b"hello")),
    "bomb": says(response(BOMB)),
    "nested": says(response(b"<a>" * 80_000)),
    "encoding": says(response(b'<?xml version="1.0" encoding="x"?><a/>')),
    "no service": says(response(description(service="urn:x:Y:1"))),
    "too long": says(response(b"<a>" + b" " * 300_000 + b"</a>")),
    "control elsewhere": says(response(description("http://127.0.0.9:9/ctl"))),
    "control of tls": says(response(description("https://127.0.0.1/ctl"))),
    "control of a name": says(response(description("http://localhost/ctl"))),
    "control of a bracket": says(response(description("http://[::1/ctl"))),
    "control of lines": says(response(description("/ctl HTTP/1.1&#13;&#10;X: y"))),
    "control of a port": says(response(description("http://127.0.0.1:99999/"))),
    "refused": serves(response(soap(errorCode="718", errorDescription="\x9b31m\u202e" * 50), "500 Error")),
    "refused without a reason": serves(response(b"", "500 Error")),
    "no address": serves(response(soap())),
    "address": serves(response(soap(NewExternalIPAddress="::1"))),
    "multicast": serves(response(soap(NewExternalIPAddress="224.0.0.1"))),
    "nowhere": serves(response(soap(NewExternalIPAddress="0.0.0.0"))),
    "redirected": serves(b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.9/\r\nContent-Length: 0\r\n\r\n"),
}


async def reason(mapper: Mapper) -> str:
    """Return why `mapper` creates no mapping."""
    try:
        await lease._contained(mapper.find())
        mapped = await lease._external(mapper, 120)
    except PortMappingError as error:
        return str(error)
    raise AssertionError(f"mapped to {mapped}")


def test_no_invalid_response_of_a_gateway_device_creates_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 1.0)

    async def one(port: int) -> str:
        async def found(_local_ip: str) -> DeviceUrl:
            return DeviceUrl(Endpoint("127.0.0.1", port), "/d.xml")

        monkeypatch.setattr(igd, "gateway_device", found)
        begun = time.monotonic()
        text = await reason(Igd(LOCAL))
        assert time.monotonic() - begun < 10
        return text

    async def test() -> None:
        with Servers() as servers:
            reasons = {name: await one(servers.answering(answer).port) for name, answer in DEVICES.items()}
        assert all(each.isprintable() and len(each) <= 200 for each in reasons.values()), reasons
        assert "718" in reasons["refused"]
        assert "is not at 127.0.0.1" in reasons["control elsewhere"]
        assert "HTTP status 302" in reasons["302-absolute"]
        assert "cannot be used" in reasons["multicast"]

    run(test)


def test_a_gateway_device_maps_a_port_and_removes_the_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = response(soap(NewExternalIPAddress="192.0.2.1"))
    asked: list[bytes] = []

    async def device(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.startswith(b"GET"):  # chunked, as some devices respond
            body = description(f"http://127.0.0.1:{writer.get_extra_info('sockname')[1]}/ctl?x=1")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.writelines(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:], b""))
        else:
            asked.append(request + await reader.readuntil(b"</s:Envelope>"))
            writer.write(answer.replace(b"HTTP/1.1", b"HTTP/1.0"))

    async def test() -> None:
        with Servers() as servers:
            port = servers.answering(device).port

            async def found(_local_ip: str) -> DeviceUrl:
                return DeviceUrl(Endpoint("127.0.0.1", port), "/d.xml")

            monkeypatch.setattr(igd, "gateway_device", found)
            mapper = Igd(LOCAL)
            await mapper.find()
            assert await mapper.request(120) == Endpoint("192.0.2.1", LOCAL.port)
            await mapper.remove()
        actions = [b"AddPortMapping", b"GetExternalIPAddress", b"DeletePortMapping"]
        for action, each in zip(actions, asked, strict=True):
            assert each.startswith(b"POST /ctl?x=1 HTTP/1.1\r\n")
            assert f'SOAPAction: "{SERVICE}#{action.decode()}"'.encode() in each
        assert b"<NewExternalPort>40000</NewExternalPort>" in asked[0]
        assert b"<NewLeaseDuration>120</NewLeaseDuration>" in asked[0]

    run(test)


def test_a_flood_of_responses_does_not_block_the_process() -> None:
    """The next response is always available before the last one is processed."""

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            askers: list[tuple[str, int]] = []

            def answer_once() -> None:
                askers.append(sock.recvfrom(100)[1])
                sock.sendto(b"no answer", askers[0])

            def fits(_answer: bytes) -> bool:
                assert time.monotonic() - begun < 10
                sock.sendto(b"no answer", askers[0])
                return False

            thread = threading.Thread(target=answer_once)
            thread.start()
            begun = time.monotonic()
            with pytest.raises(PortMappingError, match="does not answer"):
                await datagrams.ask(Endpoint.of(sock.getsockname()), b"question", fits)
            thread.join()

    run(test)


@contextlib.asynccontextmanager
async def gateway(ip: str, answers: list[bytes]) -> AsyncIterator[None]:
    """Answer PCP and NAT-PMP at `ip`: each request with the next of the answers, and with the last one from then on."""

    class Udp(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            assert isinstance(self.transport, asyncio.DatagramTransport)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            # The nonce and the ports are those of the request, so that the other fields are checked.
            self.transport.sendto(answer[:24] + data[24:42] + answer[42:] if len(data) == 60 else answer, addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Udp, local_addr=(ip, datagrams.PORT))
    try:
        yield
    finally:
        transport.close()


def _pcp(result: int = 0, port: int = 40_000, ip: bytes = bytes(10) + b"\xff\xff\xc0\0\2\1") -> bytes:
    header = struct.pack("!BBxBII12x", 2, 129, result, 120, 1)
    return header + bytes(12) + struct.pack("!B3xHH", 6, 40_000, port) + ip


_ANNOUNCED = struct.pack("!BBxBII12x", 2, 128, 0, 0, 1)
PCP = {
    "empty": b"",
    "short": b"\x02\x81\0",
    "header": _pcp()[:24],
    "cut": _pcp()[:50],
    "result": _pcp(result=250),
    "ipv6": _pcp(ip=bytes(15) + b"\1"),
    "nowhere": _pcp(ip=bytes(10) + b"\xff\xff\0\0\0\0"),
    "multicast": _pcp(ip=bytes(10) + b"\xff\xff\xe0\0\0\1"),
    "port": _pcp(port=0),
    "garbage": bytes(range(256)),
    "long": _pcp() + bytes(1400),
}
_ADDRESS = struct.pack("!BBHI4s", 0, 128, 0, 1, b"\xc0\0\2\1")
NAT_PMP = {
    "empty": b"",
    "short": b"\0\x82\0",
    "result": struct.pack("!BBHIHHI", 0, 130, 99, 1, 40_000, 40_000, 120),
    "cut": struct.pack("!BBHI", 0, 130, 0, 1),
    "port": struct.pack("!BBHIHHI", 0, 130, 0, 1, 40_000, 0, 120),
    "other": struct.pack("!BBHIHHI", 0, 130, 0, 1, 40_001, 40_001, 120),
    "garbage": bytes(range(256)),
}


def test_no_invalid_response_by_pcp_or_nat_pmp_creates_a_mapping() -> None:
    numbers = iter(range(1, 250))

    async def one(answer: bytes, *, pcp: bool) -> str:
        ip = f"127.88.{os.getpid() % 250}.{next(numbers)}"
        async with gateway(ip, [_ANNOUNCED if pcp else _ADDRESS, *([] if pcp else [_ADDRESS]), answer]):
            return await reason(Pcp(ip, LOCAL) if pcp else NatPmp(ip, LOCAL.port))

    async def test() -> None:
        names = [*((name, True) for name in PCP), *((name, False) for name in NAT_PMP)]
        answers = [(PCP if pcp else NAT_PMP)[name] for name, pcp in names]
        reasons = await asyncio.gather(*(one(each, pcp=pcp) for each, (_, pcp) in zip(answers, names, strict=True)))
        assert all(each.isprintable() and len(each) <= 200 for each in reasons)

    run(test)


@given(st.binary(max_size=300))
def test_any_bytes_are_at_worst_invalid_xml(data: bytes) -> None:
    with contextlib.suppress(PortMappingError):
        texts(data)
    with contextlib.suppress(PortMappingError):
        texts(b"<a>" + data + b"</a>")


@given(st.text(max_size=100))
def test_only_urls_of_the_device_itself_are_accepted(text: str) -> None:
    base = DeviceUrl(Endpoint("192.0.2.1", 80), "/a/b")
    for reference in (text, f"http://192.0.2.1{text}", f"http://192.0.2.1:{text}", f"//{text}"):
        with contextlib.suppress(PortMappingError):
            joined = base.joined(reference)
            assert joined.server.ip == "192.0.2.1"
            assert joined.path.isascii()
            assert joined.path.isprintable()
            assert " " not in joined.path


def test_a_closed_port_is_reported() -> None:
    async def test() -> None:
        with pytest.raises(PortMappingError, match="Connection refused"):
            await ask(DeviceUrl(Endpoint("127.0.0.1", 9), "/"), "127.0.0.1")

    run(test)
