"""`punch pipe` and `punch forward` as processes, on the loopback network."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.cli import main
from tests.punch.processes import CODE
from tests.punch.recorder import PATIENCE_S, Command

ONE, OTHER = "127.0.0.2:0", "127.0.0.3:0"


@contextlib.contextmanager
def pipe(edge: str, bind: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "punchlab.punch",
        "pipe",
        *words,
        "--edge",
        edge,
        "--bind",
        bind,
        "--json",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def code_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "code":
            return str(event["code"])
    raise AssertionError("no code")


def test_each_direction_of_a_pipe_ends_by_itself(edge: str) -> None:
    question, answer = os.urandom(3_000_000), os.urandom(3_000_000)
    with pipe(edge, ONE, "--new") as one, pipe(edge, OTHER, code_of(one)) as other:
        asking = threading.Thread(target=_say, args=(one, question))
        answering = threading.Thread(target=_say, args=(other, answer))
        asking.start()
        asked = _read_exactly(other, len(question))
        answering.start()
        assert _read_exactly(one, len(answer)) == answer
        assert asked == question
        asking.join(PATIENCE_S)
        answering.join(PATIENCE_S)
        assert one.wait(PATIENCE_S) == other.wait(PATIENCE_S) == 0


def test_the_code_of_a_pipe_can_come_from_the_environment(edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe(edge, ONE, "--new") as one:
        monkeypatch.setenv("PUNCH_CODE", code_of(one))
        with pipe(edge, OTHER) as other:
            _say(one, b"question")
            assert _read_exactly(other, 8) == b"question"
            _say(other, b"")
            assert one.wait(PATIENCE_S) == other.wait(PATIENCE_S) == 0


def _say(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Write all of it and close standard input."""
    assert process.stdin is not None
    view = memoryview(text)
    while view:
        view = view[process.stdin.write(view) :]
    process.stdin.close()


def _read_exactly(process: subprocess.Popen[bytes], count: int) -> bytes:
    assert process.stdout is not None
    data = b""
    while len(data) < count:
        piece = process.stdout.read(count - len(data))
        assert piece
        data += piece
    return data


def test_a_pipe_whose_reader_has_gone_ends_both(edge: str) -> None:
    with pipe(edge, ONE, "--new") as one, pipe(edge, OTHER, code_of(one)) as other:
        assert one.stdin is not None
        assert other.stdout is not None
        other.stdout.close()
        one.stdin.write(b"nobody reads this")
        assert other.wait(PATIENCE_S) == 1
        assert one.wait(PATIENCE_S) == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "code: missing"),
        ([CODE, "--new"], "CODE and --new are mutually exclusive"),
        (["nonsense"], "code: 'nonsense'"),
    ],
)
def test_a_pipe_needs_either_a_code_or_new(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipe", *words, "--edge", "ws://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err.startswith(f"punch: {error}")


@contextlib.contextmanager
def forwarding(edge: str, target: str) -> Iterator[tuple[tuple[str, int], Command, Command]]:
    """Yield the address of the listening side, and both sides."""
    with Command("forward", "--to", target, "--edge", edge, "--bind", ONE) as exposing:
        code = exposing.wait_for("code")["code"]
        with Command("forward", code, "--listen", "127.0.0.1:0", "--edge", edge, "--bind", OTHER) as listening:
            ip, _, port = listening.wait_for("forwarding")["listen"].partition(":")
            yield (ip, int(port)), exposing, listening


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_web_server_is_reached_through_the_tunnel_by_many_at_once(
    edge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(500_000)
    (tmp_path / "page").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with forwarding(edge, f"127.0.0.1:{server.server_port}") as (at, exposing, listening):
                with socket.create_connection(at) as stalled:  # requests much data and reads nothing
                    stalled.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                    pages: list[bytes] = []

                    def fetch() -> None:
                        with urllib.request.urlopen(f"http://{at[0]}:{at[1]}/page", timeout=PATIENCE_S) as page:
                            pages.append(page.read())

                    threads = [threading.Thread(target=fetch) for _ in range(8)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join(PATIENCE_S)
                    assert pages == [content] * 8
                assert listening.finish(terminate=True) == 143
                assert exposing.finish() == 0
        finally:
            server.shutdown()
            serving.join()


def test_ends_and_resets_are_carried(edge: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        forwarding(edge, f"127.0.0.1:{server.getsockname()[1]}") as (at, _, _),
    ):
        with socket.create_connection(at) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"question")
                near.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: far.recv(100), b"")) == b"question"
                far.sendall(b"answer")
                far.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: near.recv(100), b"")) == b"answer"
        with socket.create_connection(at) as near:
            far, _ = server.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            far.close()
            with pytest.raises(ConnectionResetError):
                near.recv(100)


def test_a_target_that_does_not_listen_resets_the_connection_and_no_more(edge: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with forwarding(edge, f"127.0.0.1:{reserved.getsockname()[1]}") as (at, _, _):
            for _ in range(2):
                with socket.create_connection(at) as near, pytest.raises(ConnectionResetError):
                    near.recv(100)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "to: missing"),
        (["--to", "127.0.0.1:22", "--listen", "127.0.0.1:0"], "--to and --listen are mutually exclusive"),
        (["--to", "127.0.0.1"], "to: '127.0.0.1'"),
        (["--to", "127.0.0.1:0"], "to: '127.0.0.1:0'"),
        (["--listen", "127.0.0.1:0"], "code: missing"),
        ([CODE, "--listen", "nowhere"], "listen: 'nowhere'"),
    ],
)
def test_bad_input_to_forward_is_one_line(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forward", *words, "--edge", "ws://127.0.0.1:9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"punch: {error}")
