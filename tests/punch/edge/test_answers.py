"""Invalid answers of a joined host or a NATS server to an edge: it continues, retries, and reports each in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from punchlab.punch.edge.bus.nats import NatsBus
from punchlab.punch.text import LONGEST_VALUE
from tests.punch.answers import (
    BAD,
    LOST,
    NO_WEBSOCKET,
    Answer,
    Server,
    Servers,
    accepts,
    endless,
    frame,
    http,
    says,
    silence,
)
from tests.punch.edges import run
from tests.punch.processes import CODE, receive, running_edge, send, url_of
from tests.punch.recorder import PATIENCE_S, Command, Recorder

HELLO = frame(json.dumps({"type": "hello", "name": "x", "instance": "ab" * 8}).encode())
MEMORY = 100 << 20  # bytes, including about 40 MiB for the interpreter and its modules
NAMELESS = {"drip", "silence"}  # the only reason is the timeout


def joining(servers: Servers, answers: Mapping[str, Answer]) -> dict[str, Server]:
    return {name: servers.answering(answer) for name, answer in answers.items()}


def peak_memory(edge: Command) -> int:
    """Return the peak memory of the process in bytes."""
    status = Path(f"/proc/{edge.process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def assert_an_edge_survives(joined: Mapping[str, Server], silent: set[str], tmp_path: Path) -> None:
    """Assert that the edge stays linked to an honest edge, pairs clients of both, and reports each of `joined`."""
    (tmp_path / "file").write_bytes(b"hello")
    out = tmp_path / "out"
    out.mkdir()
    with running_edge("near", "--mesh-from", "127.0.0.1") as (_, near):
        joins = [word for url in (near, *(each.url for each in joined.values())) for word in ("--join", url)]
        with Command("edge", "--listen", "127.0.0.1:0", "--name", "far", *joins) as far:
            url = url_of(far)
            far.wait_for("joined", peer="near")
            for name, server in joined.items():
                if name not in silent:
                    far.wait_for("not_joined", edge=server.url)
            with send(near, tmp_path / "file", "--code", CODE) as sender, receive(url, CODE, "--dir", out) as receiver:
                assert sender.finish() == receiver.finish() == 0
            assert (out / "file").read_bytes() == b"hello"
            assert peak_memory(far) < MEMORY
            assert far.finish(terminate=True) == 0
            assert far.errors == []
    reported = [event for event in far.events if event["event"] == "not_joined"]
    assert all(each["reason"].isprintable() and len(each["reason"]) <= LONGEST_VALUE for each in reported)
    # One line for each, regardless of the number of attempts, unless the answer depends on timing.
    assert len(reported) <= 3 * len(joined)
    assert sum(len(each.requests) > 1 for each in joined.values()) > len(joined) / 2


def test_an_edge_survives_every_answer_of_a_joined_host(tmp_path: Path) -> None:
    with Servers() as servers:
        assert_an_edge_survives(joining(servers, NO_WEBSOCKET), set(), tmp_path)


@pytest.mark.parametrize("stage", ["at once", "after the hello"])
def test_an_edge_survives_every_frame_of_a_joined_host(stage: str, tmp_path: Path) -> None:
    first = [] if stage == "at once" else [HELLO]
    bad = {name: accepts(*first, each, heard=len(first)) for name, each in BAD.items()}
    silent = {"close-escapes", *LOST}
    with Servers() as servers:
        assert_an_edge_survives(joining(servers, {**bad, **LOST}), silent, tmp_path)


def test_redirects_of_a_joined_host_are_not_followed(tmp_path: Path) -> None:
    with Servers() as servers:
        elsewhere = servers.answering(silence)
        location = f"Location: {elsewhere.url}/mesh"
        answers = {status: http(f"{status} Found", location) for status in ("301", "302", "303", "307", "308")}
        assert_an_edge_survives(joining(servers, answers), set(), tmp_path)
        assert elsewhere.requests == []


_INFO = b'INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"headers":true,"proto":1}\r\n'


def _info(**changes: object) -> bytes:
    fields = {"server_id": "x", "version": "2.9.10", "max_payload": 1_048_576, "headers": True, "proto": 1, **changes}
    return f"INFO {json.dumps(fields)}\r\n".encode()


def _nats(*sent: bytes) -> Answer:
    """Accept the connection of the bus, then send the bytes."""

    async def answer(_request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_INFO)
        pings = 0
        while pings < 3 and (line := await reader.readline()):
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                pings += 1
        writer.writelines(sent)
        await reader.read()

    return answer


NATS: dict[str, Answer] = {
    "nothing": says(),
    "silence": silence,
    "garbage": says(bytes(range(256)) * 40),
    "http": says(b"HTTP/1.1 302 Found\r\nLocation: nats://127.0.0.1:9\r\n\r\n"),
    "line": says(b"x" * 200_000),
    "endless line": endless(b"", b"x" * 65_536),
    "no json": says(b"INFO {\r\n"),
    "no object": says(b"INFO [1]\r\n"),
    "nested": says(b"INFO " + b"[" * 20_000 + b"\r\n"),
    "latin": says(b"INFO {\xff}\r\n"),
    "payload": says(_info(max_payload="x"), b"PONG\r\n" * 9),
    "tls": says(_info(tls_required=True), bytes(1000)),
    "nonce": says(_info(nonce=5, auth_required=True), b"-ERR 'Authorization Violation'\r\n"),
    "error": says(_INFO, b"-ERR '\x1b[31m\xff'\r\n"),
    "info again": _nats(b"INFO {\r\n"),
    "info of nothing": _nats(b"INFO null\r\n"),
    "urls": _nats(_info(connect_urls=[5, "x", "[::1", "127.0.0.1:99999"])),
    "garbage later": _nats(bytes(range(256)) * 40),
    "errors later": _nats(b"-ERR 'Stale Connection'\r\n", b"-ERR \xff\r\n"),
    "size": _nats(b"MSG punch.session.k7x2mq 1 99999999999\r\n" + b"x" * 100_000),
    "digits": _nats(b"MSG punch.session.k7x2mq 1 " + b"9" * 5000 + b"\r\n"),
    "headers": _nats(b"HMSG punch.session.k7x2mq 1 50 10\r\nNATS/1.0\r\n\r\n\r\n"),
    "unknown subscription": _nats(b"MSG x 77 5\r\nhello\r\n"),
}
"""The answers in place of a NATS server."""


def test_a_bus_survives_every_answer_of_a_nats_server(caplog: pytest.LogCaptureFixture) -> None:
    unhandled: list[object] = []

    async def one(name: str, server: Server) -> None:
        log = Recorder()
        bus = asyncio.create_task(NatsBus([server.url.replace("ws:", "nats:")], "e1", 60, log).run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(server.requests) < (1 if name == "urls" else 2):
                    assert not bus.done(), bus
                    await asyncio.sleep(0.05)
            assert name == "urls" or log.all("bus_error") or log.all("left"), log.events
        finally:
            bus.cancel()
            await asyncio.gather(bus, return_exceptions=True)
        assert all(each["reason"].isprintable() for each in log.all("bus_error"))

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
        with Servers() as servers:
            asked = {name: servers.answering(answer, asked=False) for name, answer in NATS.items()}
            done = await asyncio.gather(*(one(*each) for each in asked.items()), return_exceptions=True)
        failed = {name: error for name, error in zip(asked, done, strict=True) if error is not None}
        assert failed == {}, "\n".join(map(str, failed.items()))

    run(test)
    assert unhandled == []
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
