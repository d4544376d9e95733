"""All output of `punch` while an edge, a stranger, a peer or its arguments contain terminal commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from punchlab.punch.cli import main
from tests.plain import ATTACKS, HOSTILE, assert_plain, assert_plain_line
from tests.punch.processes import CODE, running_edge, send
from tests.punch.recorder import PATIENCE_S

PUNCH = [sys.executable, "-m", "punchlab.punch"]
REASON = "\x1b[31m\x9b\u202e\u200f\n::error::x\n##[error]"
"""The maximum of a WebSocket close frame."""
BODY = HOSTILE.encode(errors="surrogatepass")


def frames(*said: object) -> Callable[[ServerConnection], None]:
    """An edge that sends these messages, and then the last one after each received message."""

    def handle(client: ServerConnection) -> None:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in said]
        for text in texts:
            client.send(text)
        for _ in client:
            client.send(texts[-1])

    return handle


def http(status: str, body: bytes = BODY, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


VANTAGE = {"type": "vantage", "edge": "e", "public": "127.0.0.1:9", "stun": ["127.0.0.1:9", "127.0.0.1:10"]}
WELCOME = {"type": "welcome", "edge": "e", "public": "127.0.0.1:9", "relay": None}
SPEECHES = {
    "close": lambda client: client.close(1008, REASON),
    "close normally": lambda client: client.close(1000, REASON),
    "no json": frames(HOSTILE),
    "type": frames({"type": HOSTILE}),
    "key": frames({HOSTILE: HOSTILE, "type": "welcome", "edge": HOSTILE}),
    "name": frames({**WELCOME, "edge": HOSTILE}),
    "name of another line": frames({**WELCOME, "edge": "::error::x"}, "x"),
    "relay": frames({**WELCOME, "relay": HOSTILE}),
    "public": frames({**WELCOME, "public": HOSTILE}),
    "peer": frames(WELCOME, {"type": "peer", "via": HOSTILE, "public": HOSTILE, "private": [HOSTILE]}),
    "vantage": frames({**VANTAGE, "edge": HOSTILE}),
    "stun": frames({**VANTAGE, "stun": [HOSTILE, HOSTILE]}),
    "refused": frames(VANTAGE, {"type": "refused", "id": 0, "reason": HOSTILE}),
    "refused plainly": frames(VANTAGE, {"type": "refused", "id": 0, "reason": "::error::x ##[error]x"}),
}
RAW = {
    "garbage": BODY * 10,
    "status": f"HTTP/1.1 {HOSTILE}\r\n\r\n".encode(errors="surrogatepass"),
    "reason phrase": http("400 \x1b[31m\x9b\u202e##[error]x"),
    "403": http("403 Forbidden"),
    "503 in one line": http("503 Service Unavailable", b"\x1b[31m\xc2\x9b\xe2\x80\xae ##[error]x"),
    "redirect": http("302 Found", Location="ws://127.0.0.1:1/\x1b[31m\u202e##[error]x"),
    "headers": http("101 Switching Protocols", b"", Upgrade="\x1b[31m", Connection="\u202e##[error]x"),
    "accept": http("101 X", b"", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Accept="\x1b\u202e"),
}


@contextlib.contextmanager
def speaking(handle: Callable[[ServerConnection], object]) -> Iterator[str]:
    def handler(client: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            handle(client)

    with serve(handler, "127.0.0.1", 0, close_timeout=1) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            serving.join()


@contextlib.contextmanager
def answering(said: bytes) -> Iterator[str]:
    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.recv(65536)
                    sock.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=accept)
        serving.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


PROBE = ["probe", "--patience", "0.1"]
PIPE = ["pipe", CODE, "--wait", "0.2", "--deadline", "0.2"]
SEVERAL = """
import json, sys
from punchlab.punch.cli import main
for name, words in json.loads(sys.argv[1]):
    print("==", name, "ended with", main(words))
"""


@pytest.mark.parametrize("command", [PROBE, PIPE], ids=["probe", "pipe"])
def test_all_output_is_plain_for_any_message_of_an_edge(command: list[str]) -> None:
    """For users and for programs; all commands run in one process, which is fast."""
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(speaking(speech)) for name, speech in SPEECHES.items()}
        urls |= {name: stack.enter_context(answering(answer)) for name, answer in RAW.items()}
        commands = [(name, [*command, "--edge", url, *more]) for name, url in urls.items() for more in ([], ["--json"])]
        ended = subprocess.run(
            [sys.executable, "-c", SEVERAL, json.dumps(commands)],
            capture_output=True,
            timeout=2 * PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert_plain(ended.stdout)
    assert_plain(ended.stderr)
    said = (ended.stdout + ended.stderr).decode()
    for name, _words in commands:
        assert f"== {name} ended with" in said
    assert any(line.startswith("punch: ") for line in said.splitlines())


def test_a_stranger_cannot_write_to_the_log_of_an_edge_what_he_likes() -> None:
    register = {"type": "register", "session": HOSTILE, "role": HOSTILE, "private": [HOSTILE], "pake": HOSTILE}
    said = [
        *(HOSTILE, json.dumps({"type": HOSTILE}), json.dumps(register), json.dumps({**register, "session": "abcd"})),
        *(json.dumps({"type": "hello", "name": HOSTILE, "instance": HOSTILE}), json.dumps({HOSTILE: HOSTILE})),
    ]
    for more in ([], ["--json"]):
        words = [*PUNCH, "edge", "--listen", "127.0.0.1:0", "--name", "::error::x ##[error]", *more]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as edge:
            assert edge.stdout is not None
            first = edge.stdout.readline()
            address = first.decode().rstrip('\n"}').split(" at " if not more else '"address": "')[-1].split('"')[0]
            for path in ("/", "/mesh", "/probe", "/relay"):
                for text in said:
                    with contextlib.suppress(Exception), connect(f"ws://{address}{path}", proxy=None) as client:
                        client.send(text)
                        client.close(1000, REASON)
            host, _, port = address.partition(":")
            for request in (
                *(
                    BODY,
                    b"GET /\x1b[31m\xc2\x9b HTTP/1.1\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: \x1b[31m##[error]x\r\n\r\n",
                ),
                b"\x1b[31m / HTTP/1.1\r\n\r\n",
            ):
                with socket.create_connection((host, int(port))) as sock, contextlib.suppress(OSError):
                    sock.sendall(request)
                    sock.settimeout(0.5)
                    sock.recv(4096)
            edge.terminate()
            rest, errors = edge.communicate(timeout=PATIENCE_S)
        assert edge.returncode == 0
        assert_plain(first + rest)
        assert_plain(errors)


def test_names_of_files_are_names_in_the_log_of_a_ci_run(tmp_path: Path, out: Path) -> None:
    names = ["::error::owned", "##[error]owned", "##vso[task.setvariable]b", "=1+1", "naïve\u202f日本語"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with running_edge() as (_, url):
        words = ["receive", CODE, "--yes", "--edge", url, "--dir", str(out), "--bind", "127.0.0.3:0"]
        with subprocess.Popen(
            [*PUNCH, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as receiver:
            with send(url, *(tmp_path / name for name in names), "--code", CODE) as sender:
                assert sender.finish() == 0
            said, errors = receiver.communicate(timeout=PATIENCE_S)
    assert (receiver.returncode, errors) == (0, b"")
    assert_plain(said)
    assert r"\x3a:error::owned (1 bytes)" in said.decode()
    assert "naïve\u202f日本語 (1 bytes)" in said.decode()
    assert {path.name for path in out.iterdir()} == set(names)


BAD_WORDS: Sequence[list[str]] = [
    *([HOSTILE], ["send"], ["send", HOSTILE], ["send", "-", "--name", HOSTILE], ["send", "x", HOSTILE, "--nonsense"]),
    *(["receive", HOSTILE], ["receive", CODE, "--edge", HOSTILE], ["receive", CODE, "--edge", f"ws://{HOSTILE}:1"]),
    *(
        ["receive", CODE, "--yes", "--edge", "ws://x:1", "--strategy", HOSTILE],
        ["receive", CODE, "--dir", f"/nonexistent/{HOSTILE}"],
    ),
    *(
        ["receive", CODE, "--yes", "--edge", "ws://x:1", "--bind", HOSTILE],
        ["receive", CODE, "--yes", "--edge", "ws://x:1", "--wait", HOSTILE],
    ),
    *(["pipe", "--key-file", HOSTILE], ["forward", "--to", HOSTILE], ["forward", CODE, "--listen", HOSTILE]),
    *(["edge", "--listen", HOSTILE], ["edge", "--listen", "127.0.0.1:0", "--name", HOSTILE]),
    *(["edge", "--listen", "127.0.0.1:0", "--bus", HOSTILE], ["edge", "--listen", "127.0.0.1:0", "--join", HOSTILE]),
    *(["probe", "--edge", HOSTILE], ["probe", "--edge", f"stun:{HOSTILE}"], ["probe", "--edge", "ws://a:1", HOSTILE]),
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=range(len(BAD_WORDS)))
def test_an_error_quotes_what_was_typed_on_one_plain_line(
    words: list[str], capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNCH_EDGE", HOSTILE.replace("\0", ""))
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    sys.stdout.flush()
    said = capfdbinary.readouterr()
    assert status == 2
    assert said.out == b""
    assert_plain_line(said.err)


def test_a_traceback_is_plain_too() -> None:
    program = "from punchlab.punch.cli import files, main\n"
    program += f"def fails(_):\n    raise RuntimeError({HOSTILE!r})\n"
    program += "files.checked_code = fails\nmain(['send', 'x'])\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 1
    assert b"RuntimeError" in ended.stderr
    assert_plain(ended.stderr)


def test_on_a_terminal_only_the_progress_bar_commands_it(tmp_path: Path, out: Path) -> None:
    """The progress bar of rich writes CSI sequences; all other output is plain text."""
    file = tmp_path / "##[error]::error::x"
    file.write_bytes(os.urandom(3_000_000))
    ours, theirs = pty.openpty()
    heard: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                heard.append(chunk)

    reading = threading.Thread(target=read)
    with running_edge() as (_, url), send(url, file, "--code", CODE) as sender:
        words = [*PUNCH, "receive", CODE, "--yes", "--edge", url, "--dir", str(out), "--bind", "127.0.0.3:0"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as receiver:
            os.close(theirs)
            reading.start()
            assert receiver.wait(PATIENCE_S) == 0
        assert sender.finish() == 0
    reading.join(PATIENCE_S)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", b"".join(heard).decode())
    assert_plain(text)
    assert r"#\u0023[error]::error::x (3.0 MB)" in text
    assert not any(attack in text for attack in ATTACKS)
