"""The choice of the nearest of several edges."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.rendezvous.edges import nearest_first
from tests.punch.processes import CODE
from tests.punch.recorder import Command


@contextlib.contextmanager
def listening(backlog: int = 8) -> Iterator[EdgeUrl]:
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield EdgeUrl(*listener.getsockname())


@contextlib.contextmanager
def silent() -> Iterator[EdgeUrl]:
    """A listener that answers no SYN, because its queue is full."""
    with listening(0) as url, socket.create_connection(url[:2]):
        yield url


@contextlib.contextmanager
def nobody() -> Iterator[EdgeUrl]:
    """An address that refuses connections and that no other process gets."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield EdgeUrl(*reserved.getsockname())


def order(*urls: EdgeUrl) -> list[tuple[EdgeUrl, float]]:
    return asyncio.run(nearest_first(urls))


def test_edges_that_do_not_answer_are_last_and_cause_no_delay() -> None:
    with nobody() as dead, silent() as mute, listening() as there:
        found, took = asyncio.run(_timed(dead, mute, there))
    assert [url for url, _ in found] == [there, dead, mute]
    assert found[0][1] < math.inf
    assert [trip for _, trip in found[1:]] == [math.inf, math.inf]
    assert took < 1  # a lost SYN is retransmitted after one second


async def _timed(*urls: EdgeUrl) -> tuple[list[tuple[EdgeUrl, float]], float]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    found = await nearest_first(urls)
    return found, loop.time() - begun


def test_a_single_edge_is_not_measured() -> None:
    with nobody() as dead:
        assert order(dead) == [(dead, math.inf)]
        assert order(dead, dead) == [(dead, math.inf)]


def test_without_answers_the_order_is_unchanged() -> None:
    with nobody() as one, nobody() as other, nobody() as third:
        assert [url for url, _ in order(one, other, third)] == [one, other, third]


def test_a_name_that_does_not_resolve_is_last() -> None:
    with listening() as there:
        assert order(EdgeUrl("no-such-host.invalid", 80), there)[0][0] == there


@pytest.mark.parametrize("how", ["options", "variable"])
def test_clients_use_an_edge_that_answers(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with nobody() as dead, Command("edge", "--listen", "127.0.0.1:0") as edge:
        urls = [str(dead), f"ws://{edge.wait_for('listening')['address']}"]
        options = [word for url in urls for word in ("--edge", url)] if how == "options" else []
        monkeypatch.setenv("PUNCH_EDGE", ",".join(urls))
        with (
            Command("send", file, *options, "--bind", "127.0.0.2:0", "--code", CODE) as sender,
            Command("receive", CODE, "--yes", *options, "--bind", "127.0.0.3:0", "--dir", out) as receiver,
        ):
            assert sender.finish() == receiver.finish() == 0
        measured = sender.wait_for("edges_measured")["edges"]
        assert [each["edge"] for each in measured] == urls[::-1]
        assert measured[0]["round_trip_s"] > 0
        assert measured[1]["round_trip_s"] is None
