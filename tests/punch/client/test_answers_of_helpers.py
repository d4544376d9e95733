"""Arbitrary answers at a relay, at the IPv6 address that an edge supplies, or in place of a STUN server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.client import relayed as relayed_module
from punchlab.punch.client.relayed import relayed
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError, PunchFailedError
from punchlab.punch.net.sockets import bound_socket
from punchlab.punch.probe import stun
from punchlab.punch.probe.udpsocket import MAX_STRAYS, UdpSocket
from punchlab.punch.punching import quota
from punchlab.punch.rendezvous.connection import Rendezvous
from punchlab.punch.rendezvous.reflexive import discover_reflexive_address
from tests.punch.answers import BAD, LOST, NO_WEBSOCKET, Answer, Servers, accepts, frame
from tests.punch.edges import run
from tests.punch.many import run_all
from tests.punch.probe.ports import fresh_ports
from tests.punch.rendezvous.test_answers import WELCOME, wrong

TOKEN = "ab" * 32
JOINED = frame(b'{"type":"joined"}')
ANSWERS: dict[str, Answer] = {**NO_WEBSOCKET, **{name: accepts(bad) for name, bad in BAD.items()}, **LOST}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


def url_of(servers: Servers, answer: Answer) -> EdgeUrl:
    return EdgeUrl("127.0.0.1", servers.answering(answer).port)


def test_whatever_a_relay_answers_there_is_no_tunnel(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed_module, "CONNECT_S", 3.0)
    monkeypatch.setattr(relayed_module, "TIMEOUT_S", 10.0)

    async def reason(answer: Answer) -> str:
        with pytest.raises(PunchFailedError) as caught:
            async with relayed(url_of(servers, answer), TOKEN, "ab" * 16):
                pass
        return caught.value.reason

    async def test() -> None:
        told = await asyncio.gather(*map(reason, ANSWERS.values()))
        assert all(each.startswith("relay ws://127.0.0.1:") and each.isprintable() for each in told)
        named = dict(zip(ANSWERS, told, strict=True))
        assert named["302-absolute"].endswith("(HTTP status 302, a redirection, which is not followed)")
        assert named["silence"].endswith("no answer within 3 s")

    run(test)


def test_whatever_a_relay_sends_later_ends_the_tunnel_or_is_data(servers: Servers) -> None:
    async def received(bad: bytes) -> int:
        count = 0
        async with relayed(url_of(servers, accepts(JOINED, bad, heard=1)), TOKEN, "ab" * 16) as connection:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection.sock, b"hello")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while data := await loop.sock_recv(connection.sock, 65_536):
                        count += len(data)
        return count

    async def test() -> None:
        counts = await asyncio.gather(*map(received, BAD.values()))
        assert all(count <= len(bad) for count, bad in zip(counts, BAD.values(), strict=True))

    run(test)


def test_whatever_answers_at_the_ipv6_address_of_an_edge_nothing_is_seen(servers: Servers) -> None:
    async def seen(answer: Answer) -> object:
        at = servers.answering(answer, "::1")
        named = accepts(header=b"Punch-IPv6: [::1]:%d" % at.port)
        rendezvous = await Rendezvous.connect(url_of(servers, named), None)
        try:
            with bound_socket(Endpoint("::1", 0)) as sock:
                local = Endpoint.of(sock.getsockname())
            return await discover_reflexive_address(rendezvous, local, quota.Servers())
        finally:
            await rendezvous.close()

    async def test() -> None:
        assert set(await asyncio.gather(*map(seen, ANSWERS.values()))) == {None}

    run(test)


def _message(kind: int, body: bytes, transaction: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HHI12s", kind, len(body) if length is None else length, 0x2112A442, transaction) + body


STUN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _request: b"",
    "garbage": lambda _request: bytes(range(256)),
    "echo": lambda request: request,
    "no address": lambda request: _message(0x0101, b"", request[8:20]),
    "port 0": lambda request: _message(0x0101, b"\0\x20\0\x08\0\x01\x21\x12\x21\x12\xa4\x42", request[8:20]),
    "IPv6": lambda request: _message(0x0101, b"\0\x20\0\x14\0\x02" + bytes(18), request[8:20]),
    "cut short": lambda request: _message(0x0101, b"\0\x01\xff\xff", request[8:20]),
    "error": lambda request: _message(0x0111, b"\0\x09\0\x08\0\0\4\0\xff\xfe\xfd\xfc", request[8:20]),
    "error code": lambda request: _message(0x0111, b"\0\x09\0\x04\0\0\xff\xff", request[8:20]),
    "unknown": lambda request: _message(0x0111, b"\0\x0a\0\x03\0\0\4\0", request[8:20]),
    "fingerprint": lambda request: _message(0x0101, b"\x80\x28\0\x04\0\0\4\0", request[8:20]),
    "long": lambda request: _message(0x0101, b"", request[8:20], 65_532),
    "odd": lambda request: _message(0x0101, b"x", request[8:20]),
    "other nowhere": lambda request: _message(
        0x0101, b"\x80\x2c\0\x08\0\x01\0\0\0\0\0\0\0\x01\0\x08\0\x01\0\x09\x7f\0\0\x01", request[8:20]
    ),
    "other multicast": lambda request: _message(
        0x0101, b"\x80\x2c\0\x08\0\x01\0\x09\xe0\0\0\x01\0\x01\0\x08\0\x01\0\x09\xff\xff\xff\xff", request[8:20]
    ),
}
"""Return the answer to a STUN request."""


@contextlib.asynccontextmanager
async def stun_server(port: int, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    """Answers at a UDP and TCP port of 127.0.0.1."""

    class Udp(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            assert isinstance(self.transport, asyncio.DatagramTransport)
            self.transport.sendto(answer(data), addr)

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while request := await reader.read(1500):
                writer.write(answer(request))
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Udp, local_addr=("127.0.0.1", port))
    server = await asyncio.start_server(accepted, "127.0.0.1", port)
    try:
        yield
    finally:
        transport.close()
        server.close()


def test_whatever_a_stun_server_answers_a_probe_ends_by_one_line_or_a_report(tmp_path: Path) -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            ports = {name: fresh_ports()[0] for name in STUN}
            for name, port in ports.items():
                await stack.enter_async_context(stun_server(port, STUN[name]))
            commands = [["probe", "--edge", f"stun:127.0.0.1:{port}", "--patience", "0.3"] for port in ports.values()]
            done = dict(zip(ports, await asyncio.to_thread(run_all, commands, tmp_path), strict=True))
        found = {
            name: (problem, each)
            for name, each in done.items()
            if (each.status != 0 and (problem := wrong(each, each.status))) or "Traceback" in each.stderr
        }
        assert found == {}

    run(test)


@pytest.mark.parametrize("strategy", ["auto", "predict", "birthday"])
def test_whatever_an_edge_names_as_its_stun_server_the_client_goes_on(
    strategy: str, servers: Servers, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("hello")

    def edge(port: int) -> Answer:
        stun = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
        vantage = json.dumps({"type": "vantage", "edge": "x", "public": "127.0.0.1:9", "stun": stun})

        async def answer(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            probed = request.startswith(b"GET /probe ")
            sent = [frame(vantage.encode())] if probed else [WELCOME, frame(struct.pack("!H", 1008) + b"enough", 8)]
            await accepts(*sent, heard=0 if probed else 1)(request, reader, writer)

        return answer

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            names = STUN if strategy == "auto" else ("garbage", "port 0", "long", "cut short")
            ports = {name: fresh_ports()[0] for name in names}
            for name, port in ports.items():
                await stack.enter_async_context(stun_server(port, STUN[name]))
                await stack.enter_async_context(stun_server(port + 1, STUN[name]))
            urls = [servers.answering(edge(port)).url for port in ports.values()]
            commands = [["send", "file", "--strategy", strategy, "--edge", url] for url in urls]
            done = dict(zip(ports, await asyncio.to_thread(run_all, commands, tmp_path), strict=True))
        assert {name: each for name, each in done.items() if wrong(each, 1) or "enough" not in each.stderr} == {}

    run(test)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_a_bad_stun_message(data: bytes) -> None:
    for body in (data, _message(0x0101, data, bytes(12)), _message(0x0111, data[: len(data) // 4 * 4], bytes(12))):
        with contextlib.suppress(FrameError):
            stun.decode(body)


def test_messages_that_nobody_waits_for_do_not_pile_up() -> None:
    async def test() -> None:
        async with UdpSocket.open(Endpoint("127.0.0.1", 9)) as sock:
            for _ in range(10 * MAX_STRAYS):
                sock.datagram_received(_message(0x0011, b"", stun.fresh_transaction()), ("127.0.0.1", 9))
            assert sock.strays.qsize() == MAX_STRAYS

    run(test)
