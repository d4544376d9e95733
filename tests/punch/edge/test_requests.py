"""Invalid data sent to an edge instead of a request: the edge logs no traceback and continues."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from punchlab.punch.endpoint import Endpoint
from tests.punch.edges import Running, registered, run, running
from tests.punch.probe.ports import fresh_ports
from tests.punch.processes import url_of
from tests.punch.recorder import PATIENCE_S, Command

PATHS = ("/healthz", "/metrics", "/", "/mesh", "/probe", "/sighting", "/relay", "/nowhere")
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


def request(path: str, method: bytes = b"GET", more: bytes = b"", body: bytes = b"") -> bytes:
    return b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s" % (method, path.encode(), more, body)


def requests() -> Iterator[tuple[str, bytes]]:
    for path in PATHS:
        for method in (b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"\x1b[31m"):
            yield f"{method!r} {path}", request(path, method)
            yield f"{method!r} {path} upgraded", request(path, method, UPGRADE)
        yield f"body {path}", request(path, b"POST", b"Content-Length: 5\r\n", b"hello")
        yield f"pipelined {path}", request(path) * 3
        yield f"pipelined upgrades {path}", request(path, more=UPGRADE) * 3
        yield f"garbage after {path}", request(path) + bytes(range(256)) * 40
        yield f"garbage after upgrade {path}", request(path, more=UPGRADE) + bytes(range(256)) * 40
        yield f"proxies {path}", request(path, more=UPGRADE + b"Via: a\r\nVia: b\r\nForwarded: \xff\r\n")
        yield f"keys {path}", request(path, more=UPGRADE + b"Sec-WebSocket-Key: x\r\n")
        yield f"key {path}", request(path, more=UPGRADE.replace(b"AAAA", b"\xff\xe9=A"))
        yield f"version {path}", request(path, more=UPGRADE.replace(b"13", b"\xff"))
        yield f"tokens {path}", request(path, more=b"Upgrade: ,;\r\nConnection: \xff\r\n")
        yield f"chunked {path}", request(path, more=b"Transfer-Encoding: chunked\r\n")
    yield "absolute", b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "garbage", bytes(range(256)) * 40
    yield "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield "http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "star", b"OPTIONS * HTTP/1.1\r\n\r\n"
    yield "http09", b"GET /healthz\r\n\r\n"
    yield "latin", b"GET /\xff\xfe HTTP/1.1\r\n\r\n"
    yield "line feeds", b"GET /healthz HTTP/1.1\n\n" * 3
    yield "empty lines", b"\r\n" * 1000
    yield "long line", b"GET /" + b"x" * 100_000
    yield "headers", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000


async def exchange(to: Endpoint, source: str, sent: bytes, how: str) -> bytes:
    """Return the complete answer. `how` to send: whole, in halves, open (without FIN), or reset (followed by a RST)."""
    received = b""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*to, local_addr=(source, 0))
        try:
            for part in [sent[: len(sent) // 2], sent[len(sent) // 2 :]] if how == "halves" else [sent]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            if how == "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                if how != "open":
                    writer.write_eof()
                while more := await reader.read(65_536):
                    received += more
        except OSError:  # closed before it had read all data
            pass
        finally:
            writer.transport.abort()
    return received


def test_no_request_leaves_a_traceback_in_the_log_of_an_edge() -> None:
    primary, _ = fresh_ports()
    words = ["--stun", f"127.0.0.1:{primary}", "--relay", "ws://127.0.0.1:7000"]
    with Command("edge", "--listen", "127.0.0.1:0", *words) as edge:
        address = Endpoint.parse(url_of(edge).removeprefix("ws://"))

        async def test() -> None:
            for how in ("whole", "halves", "reset"):
                # From separate addresses, because of the limit of connections per address.
                sources = (f"127.0.{number // 200 + 1}.{number % 200 + 1}" for number in range(100_000))
                every = [each for _, each in requests()]
                for first in range(0, len(every), 50):
                    some = every[first : first + 50]
                    await asyncio.gather(*(exchange(address, next(sources), each, how) for each in some))
            answered = await exchange(address, "127.0.0.1", request("/healthz") * 3, "whole")
            assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answered.endswith(b"ok\n")

        run(test)
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []


@pytest.mark.parametrize("path", PATHS)
def test_the_first_of_several_requests_is_answered_and_the_connection_closed(path: str) -> None:
    async def test() -> None:
        async with running() as edge:
            one = await exchange(edge.address, "127.0.0.1", request(path), "whole")
            several = await exchange(edge.address, "127.0.0.1", request(path) * 3, "whole")
        assert several.split(b"\r\n")[0] == one.split(b"\r\n")[0]
        assert several.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in several

    run(test)


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/"])
def test_other_methods_than_get_and_head_are_refused(path: str) -> None:
    async def test() -> None:
        async with running() as edge:
            refused = await exchange(edge.address, "127.0.0.1", request(path, b"DELETE"), "whole")
            head = await exchange(edge.address, "127.0.0.1", request(path, b"HEAD"), "whole")
        assert refused.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET" in refused
        assert head.endswith(b"\r\n\r\n")  # no body

    run(test)


def test_frames_that_come_with_the_request_are_read_after_it_was_answered() -> None:
    payload = b"no frame of ours"
    masked = bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload

    async def test() -> None:
        async with running() as edge:
            answer = await exchange(edge.address, "127.0.0.1", request("/", more=UPGRADE) + masked, "open")
            assert answer.startswith(b"HTTP/1.1 101 ")
            assert b"malformed JSON" in answer

    run(test)


def test_a_message_of_endless_fragments_is_cut_off() -> None:
    fragment = bytes([0x00, 0x80]) + bytes(4)  # a continuation without content

    async def test() -> None:
        async with running() as edge:
            sent = request("/", more=UPGRADE) + bytes([0x01, 0x80]) + bytes(4) + fragment * 1000
            assert b"sent too many fragments" in await exchange(edge.address, "127.0.0.1", sent, "open")
            assert (await edge.log.wait_for("rejected"))["reason"] == "sent too many fragments"

    run(test)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.booleans(), st.binary(max_size=200)), min_size=5, max_size=5))
def test_no_bytes_leave_a_traceback(caplog: pytest.LogCaptureFixture, drawn: list[tuple[str, bool, bytes]]) -> None:
    async def all_of(edge: Running) -> None:
        sent = [request(path, more=UPGRADE if upgrade else b"") + rest for path, upgrade, rest in drawn]
        sent += [rest + b"\r\n\r\n" for _, _, rest in drawn]
        await asyncio.gather(*(exchange(edge.address, f"127.0.9.{n}", each, "whole") for n, each in enumerate(sent, 1)))

    async def test() -> None:
        async with running() as edge:
            await all_of(edge)
            async with registered(edge, "sender"):
                pass

    with caplog.at_level(logging.ERROR):
        run(test)
    assert caplog.records == []
