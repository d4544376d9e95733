"""Bad input to any command causes a one-line error."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from punchlab.punch.cli import main
from tests.punch.processes import CODE
from tests.punch.recorder import PATIENCE_S, Command

EMPTY = ("bind", "code", "strategy", "deadline", "max-attempts", "start-at", "wait", "resume-for", "name")
NAN = ("nan", "inf", "-inf", "1e400", "1e10", "-1", "True", "1_0", "٣", "1e")  # not valid as seconds
BAD_INPUT = [
    (["send", "{file}", "--edge", "http://x"], "edge: 'http://x'"),
    (["send", "{file}"], "edge: missing; expected --edge URL, or PUNCH_EDGE"),
    (["send", "{file}", "--edge", "ws://nowhere.invalid:1"], "edge: 'ws://nowhere.invalid:1' cannot be reached"),
    (["send", "{directory}/none", "--edge", "{edge}"], "FILE: "),
    (["send", "/dev/null", "--edge", "{edge}"], "FILE: '/dev/null'"),
    (["send", "-", "{file}", "--edge", "{edge}"], "FILE: '-'"),
    (["send", "{file}", "--name", "x", "--edge", "{edge}"], "name: 'x'"),
    (["send", "-", "--name", "a/b", "--edge", "{edge}"], "name: 'a/b'"),
    (
        ["receive", CODE, "--stdout", "--dir", "{directory}", "--edge", "{edge}"],
        "--stdout and --dir are mutually exclusive",
    ),
    (["receive", CODE, "--stdout", "--force", "--edge", "{edge}"], "--stdout and --force are mutually exclusive"),
    (["send", "{file}", "{file}", "--edge", "{edge}"], "FILE: "),
    (["send", "{file}", "--edge", "{edge}", "--code", "1234"], "code: '1234'"),
    (["send", "{file}", "--edge", "{edge}", "--key-file", "{file}"], "key-file: "),
    (["send", "{file}", "--edge", "{edge}", "--key-file", "{directory}/none"], "key-file: "),
    (["send", "{file}", "--edge", "{edge}", "--bind", "1.2.3"], "bind: '1.2.3'"),
    (["send", "{file}", "--edge", "{edge}", "--bind", "192.0.2.1:0"], "bind: '192.0.2.1:0'"),
    (["send", "{file}", "--edge", "{edge}", "--bind", "127.0.0.1:443"], "bind: '127.0.0.1:443'"),
    (["send", "{file}", "--edge", "{edge}", "--strategy", "hope"], "strategy: 'hope'"),
    (["send", "{file}", "--edge", "{edge}", "--strategy", "reusee"], "did you mean reuse?"),
    (
        ["send", "{file}", "--code", CODE, "--key-file", "{file}", "--edge", "{edge}"],
        "--code and --key-file are mutually exclusive",
    ),
    (["receive", CODE, "--key-file", "{file}", "--edge", "{edge}"], "CODE and --key-file are mutually exclusive"),
    (
        ["forward", "--to", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--edge", "{edge}"],
        "--to and --listen are mutually exclusive",
    ),
    (["send", "{file}", "--edge", "{edge}", "--deadline", "-1"], "deadline: '-1'"),
    (["send", "{file}", "--edge", "{edge}", "--deadline", "nan"], "deadline: 'nan'"),
    (["send", "{file}", "--edge", "{edge}", "--max-attempts", "0"], "max-attempts: '0'"),
    (["send", "{file}", "--edge", "{edge}", "--start-at", "noon"], "start-at: 'noon'"),
    (["send", "--edge", "{edge}"], "the following arguments are required: FILE"),
    (["receive", "1234", "--edge", "{edge}"], "code: '1234'"),
    (["receive", "-", "--yes", "--edge", "{edge}"], "code: ''"),
    (["receive", "--edge", "{edge}"], "code: missing; expected"),
    (["send", "{file}", "--code", "-", "--edge", "{edge}"], "code: ''"),
    (["send", "-", "--code", "-", "--edge", "{edge}"], "code: '-'"),
    (["pipe", "-", "--edge", "{edge}"], "code: '-' cannot be used; expected a code, or PUNCH_CODE in the environment"),
    (["pipe", "-", "--new", "--edge", "{edge}"], "CODE and --new are mutually exclusive"),
    (["pipe", "--edge", "{edge}"], "code: missing; expected"),
    (["forward", "-", "--listen", "127.0.0.1:0", "--edge", "{edge}"], "code: ''"),
    (["forward", "-", "--to", "127.0.0.1:9", "--edge", "{edge}"], "code: ''"),
    (["forward", "--listen", "127.0.0.1:0", "--edge", "{edge}"], "code: missing; expected"),
    (["key", "{file}"], "FILE: "),
    (["key", "{directory}/none/key"], "FILE: "),
    (["key", ""], "FILE: ''"),
    (["receive", CODE, "--edge", "{edge}", "--dir", "{directory}/none"], "dir: "),
    (["receive", CODE, "--edge", "{edge}", "--dir", "{file}"], "dir: "),
    (["edge", "--listen", "8080"], "listen: '8080'"),
    (["edge", "--listen", "192.0.2.1:0"], "listen: '192.0.2.1:0'"),
    (["edge", "--listen", "127.0.0.1:0", "--join", "e2"], "join: 'e2'"),
    (["edge", "--listen", "127.0.0.1:0", "--session-lifetime", "x"], "session-lifetime: 'x'"),
    (["send", ""], "FILE: ''"),
    (["send", "{file}", "", "--edge", "{edge}"], "FILE: ''"),
    (["receive", CODE, "--dir", "", "--edge", "{edge}"], "--dir: ''"),
    (["receive", CODE, "--stdout", "--dir", "", "--edge", "{edge}"], "--dir: ''"),
    (["receive", "--key-file", "", "--edge", "{edge}"], "--key-file: ''"),
    (["receive", "", "--edge", "{edge}"], "code: ''"),
    (["send", "{file}", "--key-file", "", "--edge", "{edge}"], "--key-file: ''"),
    (["pipe", "--key-file", "", "--new", "--edge", "{edge}"], "--key-file: ''"),
    (["pipe", "", "--edge", "{edge}"], "code: ''"),
    (["forward", "", "--listen", "127.0.0.1:0", "--edge", "{edge}"], "code: ''"),
    (["forward", "--to", "", "--edge", "{edge}"], "to: ''"),
    (["forward", CODE, "--listen", "", "--edge", "{edge}"], "listen: ''"),
    (["probe", "--edge", ""], "edge: ''"),
    (["probe", "--edge", "{edge}", "--lifetime", ""], "lifetime: ''"),
    (["edge", "--listen", ""], "listen: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--name", ""], "name: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--join", ""], "join: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--bus", ""], "bus: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--stun", ""], "stun: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--tls-cert", "", "--tls-key", "{file}"], "--tls-cert: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--tls-cert", "{file}", "--tls-key", ""], "--tls-key: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--mesh-from", ""], "mesh-from: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--relay", ""], "relay: ''"),
    (["edge", "--listen", "127.0.0.1:0", "--relay-rate", ""], "relay-rate: ''"),
    *((["send", "{file}", "--edge", "{edge}", f"--{option}", ""], f"{option}: ''") for option in EMPTY),
    (["send", "{file}", "--edge", ""], "edge: ''"),
    (["send", "{file}", "--edge", "{edge},"], "edge: ''"),
    *((["send", "{file}", "--edge", "{edge}", f"--deadline={text}"], f"deadline: '{text}'") for text in (*NAN, "-0")),
    *((["edge", "--listen", "127.0.0.1:0", f"--drain={text}"], f"drain: '{text}'") for text in NAN),
    (["send", "{file}", "--edge", "{edge}", "--deadline", "9" * 5000], "deadline: '999"),
    (["send", "{file}", "--edge", "{edge}", "--max-attempts", "9" * 5000], "max-attempts: '999"),
    (["edge", "--listen", "127.0.0.1:0", "--max-connections", "9" * 5000], "max-connections: '999"),
    (["send", "{directory}/\udcff", "--edge", "{edge}"], r"\udcff' cannot be used"),
    (["send", "-", "--name", "\udcff", "--edge", "{edge}"], "is not UTF-8"),
    (["receive", "\udcff", "--edge", "{edge}"], r"code: '\udcff'"),
    (["forward", "--to", "\udcff:1", "--edge", "{edge}"], r"to: '\udcff:1'"),
    (["forward", "--to", f"{'a' * 64}:1", "--edge", "{edge}"], f"to: '{'a' * 64}:1'"),
    # Several edges are measured, but only if nothing else is wrong.
    (["send", "{file}", "--edge", "{edge}", "--edge", "{edge}", "--deadline", "x"], "deadline: 'x'"),
    (["send", "{file}", "--edge", "{edge}", "--edge", "ws://127.0.0.2:9", "--code", "x"], "code: 'x'"),
    (["forward", "--to", "x", "--edge", "{edge}", "--edge", "ws://127.0.0.2:9"], "to: 'x'"),
    (["edge"], "the following arguments are required: --listen"),
    ([], "the following arguments are required: COMMAND"),
    (["fly"], "COMMAND: 'fly' cannot be used; expected one of edge, send"),
    (["sned"], "did you mean send?"),
    (["send", "{file}", "--egde", "{edge}"], "did you mean --edge?"),
    (["send", "{file}", "--edge", "{edge}", "--strategy", "atuo"], "did you mean auto?"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD_INPUT, ids=[ascii(" ".join(words))[1:80] for words, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_status_2(
    file: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        edge = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        words = [word.format(file=file, directory=file.parent, edge=edge) for word in arguments]
        before = sorted(file.parent.iterdir())
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        for variable in ("PUNCH_EDGE", "PUNCH_CODE"):
            monkeypatch.delenv(variable, raising=False)
        try:
            status: object = main(words)
        except SystemExit as ended:
            status = ended.code
        with pytest.raises(BlockingIOError):
            listener.accept()  # no client has connected
    assert status == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert says in line
    assert len(line) < 400
    assert told.out == ""
    assert sorted(file.parent.iterdir()) == before


@pytest.mark.parametrize("value", ["", ",", "ws://127.0.0.1:1,"])
def test_an_edge_variable_that_is_empty_is_bad_input(
    file: Path, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNCH_EDGE", value)
    for words in (["send", str(file)], ["receive", CODE, "--yes"], ["probe"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "'' cannot be used" in line


@pytest.mark.parametrize("value", ["", "1234", "k7x2mq-amber-falcon-ambre"])
def test_a_code_variable_that_holds_no_code_is_bad_input(
    value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNCH_CODE", value)
    for words in (["receive"], ["pipe"], ["forward", "--listen", "127.0.0.1:0"]):
        assert main([*words, "--edge", "ws://127.0.0.1:9"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{value!r} cannot be used" in line


def test_an_empty_name_sends_nothing_and_stores_nothing(
    edge: str, file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    for words in (["send", "", "--code", CODE], ["receive", CODE, "--dir", ""]):
        with Command(*words, "--edge", edge) as command:
            assert command.finish() == 2
            assert command.events == []
            assert "'' cannot be used; expected a path" in command.errors[0]
    assert sorted(file.parent.iterdir()) == [out, file]


def test_a_code_that_is_no_text_is_bad_input(edge: str) -> None:
    command = [sys.executable, "-m", "punchlab.punch", "receive", "-", "--yes", "--edge", edge]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    ended = subprocess.run(
        command, input=b"\xff\n", capture_output=True, timeout=PATIENCE_S, check=False, env=environment
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"punch: code: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_code_from_a_closed_standard_input_is_bad_input(edge: str) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "punchlab.punch", "receive", "-", "--yes"]
    ended = subprocess.run([*command, "--edge", edge], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("punch: code: ''")
