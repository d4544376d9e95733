"""Bad input to any command is one line."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from punch.cli import main
from tests.punch.processes import CODE
from tests.punch.recorder import PATIENCE_S

BAD_INPUT = [
    (["send", "{file}", "--edge", "http://x"], "edge: 'http://x'"),
    (["send", "{file}"], "edge: missing; expected --edge URL, or PUNCH_EDGE"),
    (["send", "{file}", "--edge", "ws://nowhere.invalid:1"], "edge: 'ws://nowhere.invalid:1' cannot be reached"),
    (["send", "{directory}/none", "--edge", "{edge}"], "FILE: "),
    (["send", "/dev/null", "--edge", "{edge}"], "FILE: '/dev/null'"),
    (["send", "-", "{file}", "--edge", "{edge}"], "FILE: '-'"),
    (["send", "{file}", "--name", "x", "--edge", "{edge}"], "name: 'x'"),
    (["send", "-", "--name", "a/b", "--edge", "{edge}"], "name: 'a/b'"),
    (["receive", CODE, "--stdout", "--dir", "{directory}", "--edge", "{edge}"], "stdout: "),
    (["receive", CODE, "--stdout", "--force", "--edge", "{edge}"], "stdout: "),
    (["send", "{file}", "{file}", "--edge", "{edge}"], "FILE: "),
    (["send", "{file}", "--edge", "{edge}", "--code", "1234"], "code: '1234'"),
    (["send", "{file}", "--edge", "{edge}", "--key-file", "{file}"], "key-file: "),
    (["send", "{file}", "--edge", "{edge}", "--key-file", "{directory}/none"], "key-file: "),
    (["send", "{file}", "--edge", "{edge}", "--bind", "1.2.3"], "bind: '1.2.3'"),
    (["send", "{file}", "--edge", "{edge}", "--bind", "192.0.2.1:0"], "bind: '192.0.2.1:0'"),
    (["send", "{file}", "--edge", "{edge}", "--strategy", "hope"], "strategy: 'hope'"),
    (["send", "{file}", "--edge", "{edge}", "--deadline", "-1"], "deadline: '-1'"),
    (["send", "{file}", "--edge", "{edge}", "--deadline", "nan"], "deadline: 'nan'"),
    (["send", "{file}", "--edge", "{edge}", "--max-attempts", "0"], "max-attempts: '0'"),
    (["send", "{file}", "--edge", "{edge}", "--start-at", "noon"], "start-at: 'noon'"),
    (["send", "--edge", "{edge}"], "the following arguments are required: FILE"),
    (["receive", "1234", "--edge", "{edge}"], "code: '1234'"),
    (["receive", "-", "--edge", "{edge}"], "code: ''"),
    (["receive", "--edge", "{edge}"], "code: missing; expected"),
    (["receive", CODE, "--edge", "{edge}", "--dir", "{directory}/none"], "dir: "),
    (["receive", CODE, "--edge", "{edge}", "--dir", "{file}"], "dir: "),
    (["edge", "--listen", "8080"], "listen: '8080'"),
    (["edge", "--listen", "192.0.2.1:0"], "listen: '192.0.2.1:0'"),
    (["edge", "--listen", "127.0.0.1:0", "--join", "e2"], "join: 'e2'"),
    (["edge", "--listen", "127.0.0.1:0", "--session-lifetime", "x"], "session-lifetime: 'x'"),
    (["edge"], "the following arguments are required: --listen"),
    ([], "the following arguments are required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD_INPUT, ids=[" ".join(words) for words, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_status_2(
    file: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        edge = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        words = [word.format(file=file, directory=file.parent, edge=edge) for word in arguments]
        before = sorted(file.parent.iterdir())
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.delenv("PUNCH_EDGE", raising=False)
        try:
            status: object = main(words)
        except SystemExit as ended:
            status = ended.code
        with pytest.raises(BlockingIOError):
            listener.accept()  # nobody called
    assert status == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert says in line
    assert told.out == ""
    assert sorted(file.parent.iterdir()) == before


def test_a_code_from_a_closed_standard_input_is_bad_input(edge: str) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "punch", "receive", "-", "--edge", edge]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("punch: code: ''")
