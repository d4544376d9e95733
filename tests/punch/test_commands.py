"""The commands as a user runs them: processes of their own, on the loopback network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.server import serve

from punch.cli import main
from punch.endpoint import Endpoint
from tests.punch.recorder import PATIENCE_S, Command, Event

CODE = "k7x2mq-amber-falcon-tulip"
OTHER_SECRET = "k7x2mq-amber-falcon-zebra"


@contextlib.contextmanager
def running_edge(name: str = "e1", *options: str) -> Iterator[tuple[Command, str]]:
    with Command("edge", "--listen", "127.0.0.1:0", "--name", name, *options) as edge:
        yield edge, f"ws://{edge.wait_for('listening')['address']}"
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []


@pytest.fixture
def edge() -> Iterator[str]:
    with running_edge() as (_, url):
        yield url


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(os.urandom(200_000))
    return path


def send(url: str, *arguments: str | Path) -> Command:
    return Command("send", *arguments, "--edge", url, "--bind", "127.0.0.2:0")


def receive(url: str, *arguments: str | Path, stdin: str | None = None) -> Command:
    return Command("receive", *arguments, "--edge", url, "--bind", "127.0.0.3:0", stdin=stdin)


def in_order(events: list[Event], *names: str) -> None:
    instants = [next(event["t"] for event in events if event["event"] == name) for name in names]
    assert all(earlier <= later for earlier, later in itertools.pairwise(instants)), dict(
        zip(names, instants, strict=True)
    )


@pytest.mark.parametrize("strategy", ["reuse", "keep"])
def test_a_file_crosses_and_every_event_is_told(file: Path, out: Path, strategy: str) -> None:
    with running_edge() as (edge, url):
        with send(url, file, "--strategy", strategy) as sender:
            code = sender.wait_for("code")["code"]
            with receive(url, code, "--dir", out, "--strategy", strategy) as receiver:
                assert receiver.finish() == 0
                assert sender.finish() == 0
        session = code.partition("-")[0]
        edge.wait_for("client_gone", role="sender")
        edge.wait_for("client_gone", role="receiver")
        assert edge.wait_for("paired", session=session, via="local")
        assert not any(word in str(edge.events) for word in code.split("-")[1:])
    assert (out / "report.pdf").read_bytes() == file.read_bytes()
    assert [path.name for path in out.iterdir()] == ["report.pdf"]

    done = {"name": "report.pdf", "size": 200_000, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    for command, other in ((sender, receiver), (receiver, sender)):
        assert command.errors == []
        registered, other_registered = command.wait_for("registered"), other.wait_for("registered")
        assert registered["public"] == registered["local"]
        assert (registered["edge"], registered["session"]) == ("e1", session)
        assert command.wait_for("peer_known")["candidates"] == [
            {"address": other_registered["public"], "kind": "public"}
        ]
        agreed = command.wait_for("agreed")
        assert (agreed["local"], agreed["remote"]) == (registered["local"], other_registered["local"])
        assert command.wait_for("connected", remote=agreed["remote"])["local"] == agreed["local"]
        assert command.wait_for("first_syn")["local"] == registered["local"]
        assert 0 < command.wait_for("nonce_echoed")["round_trip_s"] < PATIENCE_S
        assert command.wait_for("done")["files"] == [done]
        assert command.all("attempt")
        assert all(event["number"] >= 1 and event["kind"] == "public" for event in command.all("attempt"))
        in_order(command.events, "registered", "peer_known", "first_syn", "connected", "agreed", "nonce_echoed", "done")
        assert bool(command.all("rendezvous_closed")) is (strategy == "reuse")
        if strategy == "reuse":
            in_order(command.events, "peer_known", "rendezvous_closed", "first_syn")


@pytest.mark.parametrize("sender_first", [True, False])
def test_clients_at_two_edges_meet_over_the_mesh(file: Path, out: Path, sender_first: bool) -> None:
    with running_edge("e1") as (near, near_url), running_edge("e2", "--join", near_url) as (far, far_url):
        far.wait_for("joined", peer="e1")
        near.wait_for("joined", peer="e2")
        with contextlib.ExitStack() as stack:
            if sender_first:
                sender = stack.enter_context(send(near_url, file, "--code", CODE))
                sender.wait_for("code")
            receiver = stack.enter_context(receive(far_url, CODE, "--dir", out))
            if not sender_first:
                receiver.wait_for("registered")
                sender = stack.enter_context(send(near_url, file, "--code", CODE))
            assert sender.finish() == 0
            assert receiver.finish() == 0
        assert sender.wait_for("peer_known")["via"] == receiver.wait_for("peer_known")["via"] == "bus"
        assert (sender.wait_for("registered")["edge"], receiver.wait_for("registered")["edge"]) == ("e1", "e2")
        far.wait_for("bus_sent", type="waiting", peer="e1", session="k7x2mq")
        near.wait_for("bus_sent", type="answer", peer="e2", session="k7x2mq")
        assert near.wait_for("paired")["via"] == far.wait_for("paired")["via"] == "bus"
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_a_receiver_that_does_not_know_the_words_gets_nothing(edge: str, file: Path, out: Path) -> None:
    with (
        send(edge, file, "--code", CODE, "--deadline", "1") as sender,
        receive(edge, OTHER_SECRET, "--dir", out, "--deadline", "1") as receiver,
    ):
        for command in (sender, receiver):
            assert command.finish() == 1
            assert command.wait_for("failed")["outcome"] == "wrong_peer"
            assert not command.all("agreed")
            assert not command.all("done")
    assert list(out.iterdir()) == []


def test_a_key_file_does_without_a_code(edge: str, tmp_path: Path, file: Path, out: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    with send(edge, file, "--key-file", key) as sender:
        session = sender.wait_for("registered")["session"]
        with receive(edge, "--key-file", key, "--dir", out) as receiver:
            assert receiver.finish() == 0
            assert sender.finish() == 0
    assert receiver.wait_for("registered")["session"] == session
    assert not sender.all("code")
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_the_code_can_come_on_standard_input(edge: str, file: Path, out: Path) -> None:
    with send(edge, file, "--code", CODE) as sender, receive(edge, "-", "--dir", out, stdin=f"{CODE}\n") as receiver:
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_several_files_cross_at_once(edge: str, tmp_path: Path, out: Path) -> None:
    contents = {"a": b"", "b": os.urandom(70_000), "ç d": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with (
        send(edge, *(tmp_path / name for name in contents), "--code", CODE) as sender,
        receive(edge, CODE, "--dir", out) as receiver,
    ):
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert [each["name"] for each in receiver.wait_for("done")["files"]] == list(contents)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents


@pytest.mark.parametrize("force", [False, True])
def test_an_existing_file_is_overwritten_only_with_force(edge: str, file: Path, out: Path, force: bool) -> None:
    (out / "report.pdf").write_bytes(b"old")
    options = ["--force"] if force else []
    with send(edge, file, "--code", CODE) as sender, receive(edge, CODE, "--dir", out, *options) as receiver:
        assert receiver.finish() == (0 if force else 1)
        assert sender.finish() == (0 if force else 1)
    if force:
        assert (out / "report.pdf").read_bytes() == file.read_bytes()
    else:
        assert (out / "report.pdf").read_bytes() == b"old"
        for command in (sender, receiver):
            failed = command.wait_for("failed")
            assert failed["outcome"] == "client_error"
            assert "--force" in failed["reason"]
    assert [path.name for path in out.iterdir()] == ["report.pdf"]


def test_both_dial_at_the_instant_they_were_given(edge: str, file: Path, out: Path) -> None:
    instant = time.monotonic() + 5  # by then they have met, on a busy machine too
    options = ["--start-at", repr(instant)]
    with (
        send(edge, file, "--code", CODE, *options) as sender,
        receive(edge, CODE, "--dir", out, *options) as receiver,
    ):
        assert sender.finish() == 0
        assert receiver.finish() == 0
    for command in (sender, receiver):
        assert command.wait_for("peer_known")["t"] < instant
        assert instant <= command.wait_for("first_syn")["t"] < instant + 1


def test_a_disk_that_is_full_is_told_on_both_sides_and_leaves_nothing(edge: str, file: Path, out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with send(edge, file, "--code", CODE) as sender:
        sender.wait_for("code")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            receiver = receive(edge, CODE, "--dir", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with receiver:
            assert receiver.finish() == 1
            assert sender.finish() == 1
    assert "'report.pdf' cannot be stored: File too large" in receiver.wait_for("failed")["reason"]
    assert "the receiver stopped: 'report.pdf' cannot be stored" in sender.wait_for("failed")["reason"]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_receiver_that_is_terminated_leaves_nothing(
    edge: str, tmp_path: Path, out: Path, number: signal.Signals
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it will not be sent to its end
    fits = os.statvfs(out).f_bavail * os.statvfs(out).f_frsize
    os.truncate(big, min(1 << 40, fits // 2))
    with send(edge, big, "--code", CODE) as sender, receive(edge, CODE, "--dir", out) as receiver:
        receiver.wait_for("progress")
        receiver.process.send_signal(number)
        assert receiver.finish() == 128 + number
        assert sender.finish() == 1
    assert list(out.iterdir()) == []
    assert receiver.errors == ["punch: terminated"]


def test_without_a_peer_the_sender_gives_up(edge: str, file: Path) -> None:
    with send(edge, file, "--wait", "0.2") as sender:
        assert sender.finish() == 1
    failed = sender.wait_for("failed")
    assert (failed["outcome"], failed["reason"]) == ("no_rendezvous", "no peer within 0.2 s")


def test_a_second_sender_is_refused(edge: str, file: Path, out: Path) -> None:
    with send(edge, file, "--code", CODE) as first:
        first.wait_for("code")
        with send(edge, file, "--code", CODE) as second:
            assert second.finish() == 1
        failed = second.wait_for("failed")
        assert failed["outcome"] == "no_rendezvous"
        assert "session k7x2mq already has a sender" in failed["reason"]
        with receive(edge, CODE, "--dir", out) as receiver:
            assert receiver.finish() == 0
            assert first.finish() == 0


def test_a_session_that_expires_is_told(file: Path) -> None:
    with running_edge("e1", "--session-lifetime", "0.2") as (_, url), send(url, file) as sender:
        assert sender.finish() == 1
        failed = sender.wait_for("failed")
        assert failed["outcome"] == "no_rendezvous"
        assert "session expired" in failed["reason"]


def test_an_edge_that_stops_while_we_wait_is_told(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        edge = stack.enter_context(Command("edge", "--listen", "127.0.0.1:0"))
        sender = stack.enter_context(send(f"ws://{edge.wait_for('listening')['address']}", file, "--wait", "1"))
        sender.wait_for("code")
        edge.process.kill()
        assert sender.finish() == 1
    failed = sender.wait_for("failed")
    assert failed["outcome"] == "no_rendezvous"
    assert "no peer within 1 s: the connection to the edge was lost, and no other could be had" in failed["reason"]
    assert "Connection refused" in failed["reason"]


def url_of(edge: Command) -> str:
    return f"ws://{edge.wait_for('listening')['address']}"


def two_edges(stack: contextlib.ExitStack) -> tuple[dict[str, Command], str]:
    """Two edges by their names, and the list of both; whichever answers first is the nearest."""
    edges = {name: stack.enter_context(Command("edge", "--listen", "127.0.0.1:0", "--name", name)) for name in "xy"}
    return edges, ",".join(url_of(edge) for edge in edges.values())


def test_a_client_goes_on_at_another_edge_when_its_own_is_killed(file: Path, out: Path) -> None:
    with contextlib.ExitStack() as stack:
        edges, both = two_edges(stack)
        sender = stack.enter_context(send(both, file, "--code", CODE))
        sender.wait_for("code")
        first = sender.wait_for("registered")
        edges[first["edge"]].process.kill()
        sender.wait_for("edge_lost")
        receiver = stack.enter_context(receive(both, CODE, "--dir", out))
        assert receiver.finish() == 0
        assert sender.finish() == 0
    _, second = (event for event in sender.events if event["event"] == "registered")
    assert second["edge"] != first["edge"]
    assert second["local"] == first["local"]
    assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_client_goes_on_at_another_edge_when_its_own_hangs(file: Path, out: Path) -> None:
    with contextlib.ExitStack() as stack:
        edges, both = two_edges(stack)
        sender = stack.enter_context(send(both, file, "--code", CODE))
        sender.wait_for("code")
        hung = edges.pop(sender.wait_for("registered")["edge"])
        hung.process.send_signal(signal.SIGSTOP)
        sender.wait_for("edge_lost")
        (other,) = edges.values()
        receiver = stack.enter_context(receive(url_of(other), CODE, "--dir", out))
        assert receiver.finish() == 0
        assert sender.finish() == 0
        hung.process.send_signal(signal.SIGCONT)


def test_an_edge_that_is_down_is_bad_input(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        url = f"ws://127.0.0.1:{reserved.getsockname()[1]}"
    with send(url, file) as sender:
        assert sender.finish() == 2
    assert sender.wait_for("failed")["outcome"] == "no_rendezvous"
    (line,) = sender.errors
    assert line == f"punch: edge: {url!r} cannot be reached: Connection refused; expected a running `punch edge`"


def test_something_else_at_the_edge_s_address_is_bad_input(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = stack.enter_context(send(f"ws://127.0.0.1:{server.getsockname()[1]}", file))
        connection = stack.enter_context(server.accept()[0])
        connection.recv(1)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert sender.finish() == 2
    assert "it does not answer as an edge" in sender.errors[0]


BAD_INPUT = [
    (["send", "{file}", "--edge", "http://x"], "edge: 'http://x'"),
    (["send", "{file}"], "edge: ''"),
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
    (["receive", "--edge", "{edge}"], "code: None"),
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


def test_people_are_told_the_code_and_what_happened(edge: str, file: Path, out: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "punch"]
    with subprocess.Popen(
        [*command, "send", str(file), "--edge", edge], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        line = next(line for line in sender.stdout if line.startswith("On the other computer: "))
        receiver = subprocess.run(
            [*command, *line.rstrip().rpartition(": punch ")[2].split(), "--edge", edge, "--dir", str(out)],
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


def test_people_are_told_a_failure_in_one_line(edge: str, file: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "punch", "send", str(file), "--edge", edge, "--wait", "0.1"],
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
            [sys.executable, "-m", "punch", "receive", CODE, "--edge", edge, "--dir", str(out)],
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
    receive_closed = ["sh", "-c", f'exec "$@"{closing}', "sh", sys.executable, "-m", "punch", "receive", "--json"]
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


def test_a_code_from_a_closed_standard_input_is_bad_input(edge: str) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "punch", "receive", "-", "--edge", edge]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("punch: code: ''")


def test_an_edge_serves_on_when_nobody_reads_its_log(file: Path, out: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "punch", "edge", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as edge:
        assert edge.stdout is not None
        url = f"ws://{json.loads(edge.stdout.readline())['address']}"
        edge.stdout.close()
        try:
            for _ in range(2):  # a registration that was not told once stayed in its session for ever
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


def test_an_edge_takes_as_many_clients_as_the_hard_limit_of_descriptors_allows(file: Path, out: Path) -> None:
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


def test_an_edge_out_of_descriptors_says_so_once_and_recovers(file: Path, out: Path) -> None:
    command = ["prlimit", "--nofile=64:64", sys.executable, "-m", "punch", "edge", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as edge:
        assert edge.stdout is not None
        assert edge.stderr is not None
        try:
            address = Endpoint.parse(json.loads(edge.stdout.readline())["address"])
            with contextlib.ExitStack() as stack:
                for _ in range(100):
                    stack.enter_context(socket.create_connection(address))
                told = json.loads(edge.stdout.readline())
                assert (told["event"], told["reason"]) == ("overloaded", "Too many open files")
            with send(f"ws://{address}", file, "--code", CODE) as sender:
                with receive(f"ws://{address}", CODE, "--dir", out) as receiver:
                    assert receiver.finish() == 0
                assert sender.finish() == 0
        finally:
            edge.terminate()
        assert "overloaded" not in edge.stdout.read()
        assert edge.stderr.read() == ""


@pytest.mark.parametrize("code", [1000, 1008])
def test_what_an_edge_says_cannot_command_the_terminal(file: Path, code: int) -> None:
    with contextlib.ExitStack() as stack:
        hostile = stack.enter_context(serve(lambda client: client.close(code, "\x1b]0;owned\x07"), "127.0.0.1", 0))
        serving = threading.Thread(target=hostile.serve_forever)
        serving.start()
        stack.callback(serving.join)
        stack.callback(hostile.shutdown)
        with send(f"ws://127.0.0.1:{hostile.socket.getsockname()[1]}", file) as sender:
            assert sender.finish() == 1
    assert sender.wait_for("failed")["reason"] == "the edge ended the session: ?]0;owned?"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from punch.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'asyncio', 'websockets', 'cryptography', 'spake2', 'rich'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
