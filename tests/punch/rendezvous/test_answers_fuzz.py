"""No bytes in response to a WebSocket request, or over a WebSocket, do more than end the attempt."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame
from websockets.protocol import Event

from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.errors import NoConnectionError
from punchlab.punch.net.websocket import abort, open_websocket
from tests.punch.answers import ACCEPTED, accept, frame
from tests.punch.edges import run

FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS = st.sampled_from([b"", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.1 403 No\r\n", ACCEPTED])
FIELDS = st.sampled_from(
    [b"Location: ", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: ", b"Upgrade: ", b""]
)
REST = st.one_of(st.binary(max_size=100), st.text(max_size=50).map(str.encode))
RESPONSES = st.builds(
    lambda head, fields, end: head + b"".join(b"%s%s\r\n" % field for field in fields) + b"\r\n" + end,
    HEADS,
    st.lists(st.tuples(FIELDS, REST), max_size=4),
    REST,
)
FRAMES = st.lists(
    st.builds(
        lambda first, length, payload: bytes([first, length]) + payload,
        st.integers(0, 255),
        st.integers(0, 255),
        st.binary(max_size=140),
    ),
    max_size=8,
).map(b"".join)


async def attempt(sent: bytes, *, accepted: bool) -> None:
    """Connect to a server that sends these bytes, and read its messages."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write((accept(request) if accepted else b"") + sent)
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        connection = await open_websocket(EdgeUrl(*server.sockets[0].getsockname()), "/", timeout_s=5)
    except NoConnectionError:
        return
    finally:
        server.close()
    try:
        while True:
            await connection.recv()
    except ConnectionClosed:
        pass
    finally:
        abort(connection)
        await connection.wait_closed()


def tried(attempts: list[bytes], caplog: pytest.LogCaptureFixture, *, accepted: bool) -> None:
    unhandled: list[object] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
        await asyncio.gather(*(attempt(each, accepted=accepted) for each in attempts))

    with caplog.at_level(logging.WARNING):
        run(test)
    assert unhandled == []
    assert caplog.records == []


def test_an_exception_inside_the_library_ends_the_connection_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(self: ClientProtocol) -> list[Event]:
        if any(isinstance(each, Frame) for each in self.events):
            raise AssertionError("a fault")
        return right(self)

    right = ClientProtocol.events_received
    monkeypatch.setattr(ClientProtocol, "events_received", faulty)
    tried([frame(b"hello")], caplog, accepted=True)


@FEW
@given(st.lists(RESPONSES, min_size=5, max_size=5))
def test_no_response_is_more_than_no_connection(caplog: pytest.LogCaptureFixture, drawn: list[bytes]) -> None:
    tried(drawn, caplog, accepted=False)


@FEW
@given(st.lists(FRAMES, min_size=5, max_size=5))
def test_no_frames_are_more_than_the_end_of_a_connection(caplog: pytest.LogCaptureFixture, drawn: list[bytes]) -> None:
    tried(drawn, caplog, accepted=True)
