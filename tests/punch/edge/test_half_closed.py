"""Clients of an edge that half-close the connection directly after their request."""

from __future__ import annotations

import asyncio
import logging

import pytest

from scenarios.hostile.clients import upgrade
from tests.punch.edges import Running, run, running


async def answer(edge: Running, request: bytes) -> bytes:
    """Act like `printf ... | nc -N`."""
    reader, writer = await asyncio.open_connection(*edge.address)
    writer.write(request)
    writer.write_eof()
    told = await reader.read()
    writer.close()
    await writer.wait_closed()
    return told


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /healthz HTTP/1.1", b"200 OK"),
        (b"GET /metrics HTTP/1.1", b"200 OK"),
        (b"GET /no HTTP/1.1", b"404 Not Found"),
    ],
)
def test_a_request_is_answered_also_if_its_client_ends_its_side_at_once(request_line: bytes, status: bytes) -> None:
    async def test() -> None:
        async with running() as edge:
            for _ in range(20):
                told = await answer(edge, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert told.startswith(b"HTTP/1.1 " + status)

    run(test)


@pytest.mark.parametrize("request_", [upgrade(), upgrade()[:-2], b""], ids=["websocket", "half a request", "nothing"])
def test_a_client_that_can_say_no_more_is_not_kept(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running() as edge:
            await answer(edge, request_)
            while b"punch_edge_connections 1.0\n" not in await answer(edge, b"GET /metrics HTTP/1.1\r\n\r\n"):
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR):
        run(test)
    assert not caplog.records
