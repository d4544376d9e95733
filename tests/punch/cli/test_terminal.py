"""The output of a command for users, and commands with a limited terminal or without one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.sync.server import serve

from tests.punch.processes import CODE, send
from tests.punch.recorder import PATIENCE_S


def test_users_see_the_code_and_the_result(edge: str, file: Path, out: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "punchlab.punch"]
    with subprocess.Popen(
        [*command, "send", str(file), "--edge", edge], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        line = next(line for line in sender.stdout if line.startswith("On the other computer: "))
        receiver = subprocess.run(
            [*command, *line.rstrip().rpartition(": punch ")[2].split(), "--yes", "--edge", edge, "--dir", str(out)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        told, errors = sender.communicate(timeout=PATIENCE_S)
    assert (receiver.returncode, sender.returncode) == (0, 0)
    assert receiver.stderr == errors == ""
    for text in (told, receiver.stdout):
        assert f"report.pdf (200.0 kB), SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in text
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_users_see_a_failure_in_one_line(edge: str, file: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "punchlab.punch", "send", str(file), "--edge", edge, "--wait", "0.1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "punch: no_rendezvous: no peer within 0.1 s\n"


def test_a_name_that_the_terminal_cannot_show_is_spelled(edge: str, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "ñ.txt"
    file.write_bytes(b"x")
    with send(edge, file, "--code", CODE) as sender:
        receiver = subprocess.run(
            [sys.executable, "-m", "punchlab.punch", "receive", CODE, "--yes", "--edge", edge, "--dir", str(out)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert sender.finish() == 0
    assert (receiver.returncode, receiver.stderr) == (0, "")
    assert "\\xf1.txt (1 bytes)" in receiver.stdout
    assert (out / "ñ.txt").read_bytes() == b"x"


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_clients_do_without_standard_streams(edge: str, file: Path, out: Path, closed: str) -> None:
    closing = "".join(f" {number}>&-" for number in closed.split())
    receive_closed = [
        "sh",
        "-c",
        f'exec "$@"{closing}',
        "sh",
        sys.executable,
        "-m",
        "punch",
        "receive",
        "--yes",
        "--json",
    ]
    with send(edge, file, "--code", CODE) as sender:
        receiver = subprocess.run(
            [*receive_closed, CODE, "--edge", edge, "--dir", str(out)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert sender.finish() == 0
    assert (receiver.returncode, receiver.stderr) == (0, "")
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("code", [1000, 1008])
def test_messages_of_an_edge_cannot_control_the_terminal(file: Path, code: int) -> None:
    with contextlib.ExitStack() as stack:
        hostile = stack.enter_context(serve(lambda client: client.close(code, "\x1b]0;owned\x07"), "127.0.0.1", 0))
        serving = threading.Thread(target=hostile.serve_forever)
        serving.start()
        stack.callback(serving.join)
        stack.callback(hostile.shutdown)
        with send(f"ws://127.0.0.1:{hostile.socket.getsockname()[1]}", file) as sender:
            assert sender.finish() == 1
    assert sender.wait_for("failed")["reason"] == r"the edge ended the session: \x1b]0;owned\x07"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from punchlab.punch.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'asyncio', 'websockets', 'cryptography', 'spake2', 'rich'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
