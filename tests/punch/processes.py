"""Edges and clients as processes, on the loopback network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.punch.recorder import Command

CODE = "k7x2mq-amber-falcon-tulip"


def url_of(edge: Command) -> str:
    return f"ws://{edge.wait_for('listening')['address']}"


@contextlib.contextmanager
def running_edge(name: str = "e1", *options: str) -> Iterator[tuple[Command, str]]:
    with Command("edge", "--listen", "127.0.0.1:0", "--name", name, *options) as edge:
        yield edge, url_of(edge)
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []


def send(url: str, *arguments: str | Path) -> Command:
    return Command("send", *arguments, "--edge", url, "--bind", "127.0.0.2:0")


def receive(url: str, *arguments: str | Path, stdin: str | None = None) -> Command:
    return Command("receive", "--yes", *arguments, "--edge", url, "--bind", "127.0.0.3:0", stdin=stdin)
