"""Directories, standard input and standard output, as a user sends and receives them, on the loopback network."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.secure.channel import Kind
from punchlab.punch.secure.keys import PresharedKey, write_key_file
from punchlab.punch.strategy.catalog import STRATEGIES
from punchlab.punch.transfer.offer import FileInfo, write_offer
from tests.punch.processes import CODE, receive, running_edge, send
from tests.punch.recorder import PATIENCE_S, Command, Recorder
from tests.punch.transfer.test_trees import names_in, tree


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    with running_edge() as (_, url):
        yield url


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_directory_arrives_as_it_was(edge: str, tmp_path: Path, out: Path) -> None:
    tree(tmp_path, "secret", "photos/2024/ä b.jpg", "photos/2024/big", "photos/run", "photos/empty/", "note")
    (tmp_path / "photos" / "2024" / "big").write_bytes(os.urandom(500_000))
    (tmp_path / "photos" / "run").chmod(0o755)
    (tmp_path / "photos" / "link").symlink_to("../secret")
    with (
        send(edge, tmp_path / "photos", tmp_path / "note", "--code", CODE) as sender,
        receive(edge, CODE, "--dir", out) as receiver,
    ):
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert sender.errors == receiver.errors == []
    (tmp_path / "photos" / "link").unlink()
    assert names_in(out / "photos") == names_in(tmp_path / "photos")
    assert contents(out) == {"note": b"content", **{f"photos/{k}": v for k, v in contents(tmp_path / "photos").items()}}
    assert os.access(out / "photos" / "run", os.X_OK)
    assert not os.access(out / "photos" / "2024" / "big", os.X_OK)
    assert sender.wait_for("skipped")["entries"] == [{"name": "photos/link", "reason": "a symbolic link"}]
    assert sender.wait_for("done")["files"] == receiver.wait_for("done")["files"]
    assert {each["name"]: each["sha256"] for each in receiver.wait_for("done")["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in contents(out).items()
    }


def test_a_directory_goes_into_one_that_exists_only_with_force(edge: str, tmp_path: Path, out: Path) -> None:
    tree(tmp_path, "d/a", "d/sub/b", "out/d/mine")
    with send(edge, tmp_path / "d", "--code", CODE) as sender, receive(edge, CODE, "--dir", out) as receiver:
        assert receiver.finish() == sender.finish() == 1
    assert "'d' already exists" in receiver.wait_for("failed")["reason"]
    assert sender.wait_for("failed")["reason"] == "the receiver aborted: the receiver cannot store the offered files"
    assert names_in(out) == ["d/", "d/mine"]
    with send(edge, tmp_path / "d", "--code", CODE) as sender, receive(edge, CODE, "--dir", out, "--force") as receiver:
        assert receiver.finish() == sender.finish() == 0
    assert names_in(out) == ["d/", "d/a", "d/mine", "d/sub/", "d/sub/b"]


def test_many_files_need_few_descriptors(edge: str, tmp_path: Path, out: Path) -> None:
    tree(tmp_path, *(f"d/{number % 7}/{number}" for number in range(400)))
    limited = ["prlimit", "--nofile=40:40", sys.executable, "-W", "error", "-m", "punchlab.punch"]
    common = ["--edge", edge, "--json"]
    with (
        subprocess.Popen(
            [*limited, "send", str(tmp_path / "d"), "--code", CODE, *common],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as sender,
        subprocess.Popen(
            [*limited, "receive", CODE, "--yes", "--dir", str(out), *common],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as receiver,
    ):
        assert [process.communicate(timeout=PATIENCE_S)[1] for process in (sender, receiver)] == [b"", b""]
    assert (sender.returncode, receiver.returncode) == (0, 0)
    assert contents(out / "d") == contents(tmp_path / "d")


def test_people_see_a_directory_as_one_line(edge: str, tmp_path: Path, out: Path) -> None:
    tree(tmp_path, "d/a", "d/b/c", "file")
    for number in range(11):
        (tmp_path / "d" / f"\x1b[2J{number:02}").symlink_to("a")
    command = [sys.executable, "-W", "error", "-m", "punchlab.punch"]
    with receive(edge, CODE, "--dir", out) as receiver:
        words = [*command, "send", "d", "file", "--code", CODE, "--edge", edge]
        told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=PATIENCE_S)
        assert receiver.finish() == 0
    lines = told.stdout.splitlines()
    assert [line for line in lines if line.startswith("Not sent")] == [
        *(rf"Not sent: d/\x1b[2J{number:02} (a symbolic link)" for number in range(10)),
        "Not sent: 1 more",
    ]
    assert "d/ (2 files, 14 bytes)" in lines
    assert f"file (7 bytes), SHA-256 {hashlib.sha256(b'content').hexdigest()}" in lines
    assert told.stderr == ""


@contextlib.contextmanager
def streaming(*words: str | Path, edge: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command with binary pipes as standard streams."""
    bind = "127.0.0.2:0" if words[0] == "send" else "127.0.0.3:0"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "punchlab.punch",
        *map(str, words),
        "--edge",
        edge,
        "--bind",
        bind,
        "--json",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[bytes], name: str, *, on_stderr: bool = False) -> dict[str, object]:
    stream = process.stderr if on_stderr else process.stdout
    assert stream is not None
    for line in stream:
        event: dict[str, object] = json.loads(line)
        if event["event"] == name:
            return event
    raise AssertionError(f"ended without {name}")


def say(process: subprocess.Popen[bytes], text: bytes, *, end: bool = False) -> None:
    """Write all of it, and with `end` close standard input."""
    assert process.stdin is not None
    view = memoryview(text)
    while view:
        view = view[process.stdin.write(view) :]
    if end:
        process.stdin.close()


def read(process: subprocess.Popen[bytes], count: int) -> bytes:
    """Read so many bytes, or up to the end."""
    assert process.stdout is not None
    pieces: list[bytes] = []
    while count and (piece := process.stdout.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def test_standard_input_comes_out_at_standard_output(edge: str) -> None:
    data = os.urandom(6_000_000)  # more than is buffered
    with (
        streaming("send", "-", "--code", CODE, edge=edge) as sender,
        streaming("receive", CODE, "--stdout", edge=edge) as receiver,
    ):
        say(sender, data[:1000])
        assert read(receiver, 1000) == data[:1000]  # at once, not at the end
        saying = threading.Thread(target=say, args=(sender, data[1000:]), kwargs={"end": True})
        saying.start()
        assert read(receiver, len(data)) == data[1000:]
        saying.join(PATIENCE_S)
        done = wait_for(receiver, "done", on_stderr=True)
        assert done["files"] == wait_for(sender, "done")["files"]
        assert done["files"] == [{"name": "stdin", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
        assert (sender.wait(PATIENCE_S), receiver.wait(PATIENCE_S)) == (0, 0)


@pytest.mark.parametrize("text", ["", "hello\n"])
def test_standard_input_becomes_a_file_of_the_given_name(edge: str, out: Path, text: str) -> None:
    words = ["send", "-", "--name", "x.txt", "--code", CODE, "--edge", edge]
    with Command(*words, stdin=text) as sender, receive(edge, CODE, "--dir", out) as receiver:
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert contents(out) == {"x.txt": text.encode()}
    assert sender.wait_for("done")["files"] == receiver.wait_for("done")["files"]


def test_a_file_can_be_received_to_standard_output(edge: str, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    with send(edge, tmp_path / "a", "--code", CODE) as sender:
        told = subprocess.run(
            [sys.executable, "-W", "error", "-m", "punchlab.punch", "receive", CODE, "--stdout", "--edge", edge],
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert sender.finish() == 0
    assert told.returncode == 0
    assert told.stdout == data
    assert b"Done in" in told.stderr


@pytest.mark.parametrize("words", [["d"], ["a", "b"], ["empty"]])
def test_standard_output_takes_no_more_than_one_file(edge: str, tmp_path: Path, words: list[str]) -> None:
    tree(tmp_path, "d/x", "a", "b", "empty/")
    with (
        send(edge, *(tmp_path / word for word in words), "--code", CODE) as sender,
        streaming("receive", CODE, "--stdout", edge=edge) as receiver,
    ):
        assert receiver.stdout is not None
        assert receiver.stdout.read() == b""
        assert receiver.wait(PATIENCE_S) == 1
        assert sender.finish() == 1
        failed = wait_for(receiver, "failed", on_stderr=True)
    assert failed["reason"] == "standard output can receive a single file only, and no directory"
    assert sender.wait_for("failed")["reason"] == f"the receiver aborted: {failed['reason']}"


def test_a_reader_of_standard_output_that_goes_ends_both_in_one_line(edge: str) -> None:
    words = ["receive", CODE, "--stdout", "--edge", edge, "--bind", "127.0.0.3:0"]
    command = [sys.executable, "-W", "error", "-m", "punchlab.punch", *words]
    with (
        streaming("send", "-", "--code", CODE, edge=edge) as sender,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as receiver,
    ):
        assert receiver.stdout is not None
        receiver.stdout.close()
        say(sender, b"x")
        assert receiver.stderr is not None
        told = receiver.stderr.read().splitlines()
        assert receiver.wait(PATIENCE_S) == 1
        assert told[-1] == b"punch: client_error: standard output was closed"
        assert b"Traceback" not in b"".join(told)
        assert wait_for(sender, "failed")["reason"] == "the receiver aborted: standard output was closed"
        assert sender.wait(PATIENCE_S) == 1


@pytest.mark.parametrize("victim", ["send", "receive"])
def test_standard_input_does_not_survive_its_tunnel_and_this_is_reported(edge: str, victim: str) -> None:
    with (
        streaming("send", "-", "--code", CODE, edge=edge) as sender,
        streaming("receive", CODE, "--stdout", edge=edge) as receiver,
    ):
        say(sender, b"beginning")
        assert read(receiver, 9) == b"beginning"
        killed, survivor = (sender, receiver) if victim == "send" else (receiver, sender)
        killed.kill()
        reason = str(wait_for(survivor, "failed", on_stderr=survivor is receiver)["reason"])
        assert reason.endswith("; data from standard input cannot be sent again")
        assert survivor.wait(PATIENCE_S) == 1


def test_a_file_goes_on_to_standard_output_when_its_sender_was_killed(edge: str, tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    (tmp_path / "a").write_bytes(data)
    with streaming("receive", CODE, "--stdout", edge=edge) as receiver:
        with send(edge, tmp_path / "a", "--code", CODE) as sender:
            begun = read(receiver, 100_000)  # most of the data cannot have been sent
            sender.process.kill()
            sender.process.wait(PATIENCE_S)
        with send(edge, tmp_path / "a", "--code", CODE) as sender:
            assert begun + read(receiver, len(data)) == data
            assert sender.finish() == 0
        assert 100_000 <= sender.wait_for("resumed")["bytes"] < len(data)
        assert receiver.wait(PATIENCE_S) == 0


def test_a_side_that_interrupts_standard_input_ends_both(edge: str, out: Path) -> None:
    with (
        streaming("send", "-", "--code", CODE, edge=edge) as sender,
        streaming("receive", CODE, "--yes", "--dir", out, edge=edge) as receiver,
    ):
        wait_for(sender, "nonce_echoed")
        sender.send_signal(signal.SIGTERM)  # while it waits for more
        assert sender.wait(PATIENCE_S) == 128 + signal.SIGTERM
        assert wait_for(receiver, "failed")["reason"] == "the sender aborted: interrupted"
        assert receiver.wait(PATIENCE_S) == 1
    assert list(out.iterdir()) == []


async def _send_and_leave(url: str, key: bytes, file: Path) -> None:
    """Run a sender that is killed before it receives STORED."""
    options = TunnelOptions(EdgeUrl.parse(url), STRATEGIES["keep"](), Recorder())
    content = file.read_bytes()
    async with open_tunnel(options, PresharedKey(key), "sender") as channel:
        await channel.send(Kind.OFFER, write_offer(FileInfo(file.name, len(content)), last=True))
        await channel.expect(Kind.ACCEPT)
        await channel.send(Kind.DATA, content)
        await channel.send(Kind.DIGEST, hashlib.sha256(content).digest())
        await channel.expect(Kind.STORED)


@pytest.mark.parametrize("what_comes", ["the sender", "an interrupt", "nothing"])
def test_the_receiver_waits_for_a_sender_that_may_not_know(
    edge: str, tmp_path: Path, out: Path, what_comes: str
) -> None:
    write_key_file(tmp_path / "key")
    (tmp_path / "a").write_bytes(b"content")
    options: list[str | Path] = ["--key-file", tmp_path / "key", "--strategy", "keep"]
    with receive(edge, *options, "--dir", out, "--resume-for", "0.5" if what_comes == "nothing" else "30") as receiver:
        receiver.wait_for("registered")
        asyncio.run(_send_and_leave(edge, (tmp_path / "key").read_bytes(), tmp_path / "a"))
        receiver.wait_for("unconfirmed")
        assert contents(out) == {"a": b"content"}
        assert len(receiver.all("done")) == 1
        if what_comes == "the sender":
            with send(edge, tmp_path / "a", *options) as sender:
                assert sender.finish() == 0
            assert sender.wait_for("resumed")["bytes"] == len(b"content")  # and no byte was sent again
        assert receiver.finish(terminate=what_comes == "an interrupt") == 0
    assert len(receiver.all("done")) == 1
    assert receiver.errors == []


async def _take_and_leave(url: str, key: bytes) -> None:
    """Run a receiver that is killed after it has received everything."""
    options = TunnelOptions(EdgeUrl.parse(url), STRATEGIES["keep"](), Recorder())
    async with open_tunnel(options, PresharedKey(key), "receiver") as channel:
        await channel.expect(Kind.OFFER)
        await channel.send(Kind.ACCEPT)
        await channel.expect(Kind.DATA)
        await channel.expect(Kind.DIGEST)


def test_a_sender_whose_receiver_never_returns_reports_the_uncertainty(edge: str, tmp_path: Path) -> None:
    write_key_file(tmp_path / "key")
    (tmp_path / "a").write_bytes(b"content")
    words: list[str | Path] = ["--key-file", tmp_path / "key", "--strategy", "keep", "--resume-for", "0.5"]
    with send(edge, tmp_path / "a", *words) as sender:
        sender.wait_for("registered")
        asyncio.run(_take_and_leave(edge, (tmp_path / "key").read_bytes()))
        assert sender.finish() == 1
    reason = sender.wait_for("failed")["reason"]
    assert reason.startswith("the receiver did not confirm that it stored everything: ")
    assert reason.endswith("; no new tunnel within 0.5 s")
