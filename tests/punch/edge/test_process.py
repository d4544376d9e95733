"""An edge as a process without a reader of its log, or with too few descriptors."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from punchlab.punch.endpoint import Endpoint
from tests.punch.processes import CODE, receive, send
from tests.punch.recorder import Command


def test_an_edge_continues_if_the_reader_of_its_log_exits(file: Path, out: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "punchlab.punch", "edge", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as edge:
        assert edge.stdout is not None
        url = f"ws://{json.loads(edge.stdout.readline())['address']}"
        edge.stdout.close()
        try:
            for _ in range(2):  # regression: a registration that could not be reported stayed in its session
                with send(url, file, "--code", CODE) as sender:
                    sender.wait_for("code")
                    with receive(url, CODE, "--dir", out, "--force") as receiver:
                        assert receiver.finish() == 0
                        assert sender.finish() == 0
        finally:
            edge.terminate()
        assert edge.stderr is not None
        assert edge.stderr.read() == ""
    assert edge.returncode == 0


def test_an_edge_accepts_as_many_clients_as_the_hard_limit_of_descriptors_allows(file: Path, out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            edge = stack.enter_context(Command("edge", "--listen", "127.0.0.1:0"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        address = Endpoint.parse(edge.wait_for("listening")["address"])
        for _ in range(200):
            stack.enter_context(socket.create_connection(address))
        with send(f"ws://{address}", file, "--code", CODE) as sender:
            with receive(f"ws://{address}", CODE, "--dir", out) as receiver:
                assert receiver.finish() == 0
            assert sender.finish() == 0
        assert not edge.all("overloaded")


@contextlib.contextmanager
def edge_of_64_descriptors(*options: str) -> Iterator[tuple[subprocess.Popen[str], Endpoint]]:
    edge = [sys.executable, "-m", "punchlab.punch", "edge", "--listen", "127.0.0.1:0", "--json", *options]
    with subprocess.Popen(
        ["prlimit", "--nofile=64:64", *edge], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, Endpoint.parse(json.loads(process.stdout.readline())["address"])
        finally:
            process.terminate()
        assert "overloaded" not in process.stdout.read()
        assert process.stderr.read() == ""


@contextlib.contextmanager
def silent_connections(address: Endpoint) -> Iterator[None]:
    """Open more than 64 connections, from several addresses, each within its limit."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            source = (f"127.9.0.{1 + number % 4}", 0)
            stack.enter_context(socket.create_connection(address, source_address=source))
        yield


def meet(address: Endpoint, file: Path, out: Path) -> None:
    with send(f"ws://{address}", file, "--code", CODE) as sender:
        with receive(f"ws://{address}", CODE, "--dir", out) as receiver:
            assert receiver.finish() == 0
        assert sender.finish() == 0


def test_an_edge_with_few_descriptors_closes_idle_connections_for_new_ones(file: Path, out: Path) -> None:
    with edge_of_64_descriptors() as (_, address), silent_connections(address):
        meet(address, file, out)


def test_an_edge_without_descriptors_reports_it_once_and_recovers(file: Path, out: Path) -> None:
    """This can only happen if the limit of connections exceeds the limit of descriptors."""
    with edge_of_64_descriptors("--max-connections", "1000") as (edge, address):
        with silent_connections(address):
            assert edge.stdout is not None
            event = json.loads(edge.stdout.readline())
            assert (event["event"], event["reason"]) == ("overloaded", "Too many open files")
        meet(address, file, out)


def test_an_edge_without_descriptors_tries_again_without_a_flood_of_retries() -> None:
    """With asyncio's own retries, each failure schedules hundreds more, and the edge does not end for minutes."""
    with edge_of_64_descriptors("--max-connections", "1000") as (edge, address):
        with silent_connections(address):
            assert edge.stdout is not None
            assert json.loads(edge.stdout.readline())["event"] == "overloaded"
            time.sleep(2.5)  # the edge tries again twice
        edge.terminate()
        assert edge.wait(timeout=10) == 0
