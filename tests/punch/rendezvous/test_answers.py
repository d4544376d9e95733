"""For any answer of an edge, a client prints one clear line, has the right exit status, and ends in time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.punch.answers import BAD, LOST, NO_WEBSOCKET, Answer, Servers, accepts, frame
from tests.punch.many import Done, run_all
from tests.punch.processes import CODE

CLIENTS = {
    "send": ["send", "file"],
    "receive": ["receive", CODE],
    "pipe": ["pipe", "--new"],
    "forward": ["forward", "--to", "127.0.0.1:9"],
}
PROBE = ["probe"]
MEMORY = 120 << 20  # bytes; the interpreter and its modules use about 60 MiB
LONGEST_S = 60.0  # for many processes on a slow machine; no timeout of the client is longer than 35 s

WELCOME = frame(json.dumps({"type": "welcome", "edge": "x", "public": "127.0.0.1:9"}).encode())


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("hello")
    return tmp_path


def wrong(done: Done, status: int, lines: int = 1) -> str:
    """Return what a client did wrong on an answer; empty if nothing."""
    said = done.stderr.splitlines()
    text = done.stdout + done.stderr
    checks = {
        "status": done.status == status,
        "lines": len(said) == lines and all(line.startswith("punch: ") and len(line) < 1000 for line in said),
        "characters": all(each.isprintable() or each == "\n" for each in text),
        "time": done.seconds < LONGEST_S,
        "memory": done.peak < MEMORY,
    }
    return ", ".join(name for name, right in checks.items() if not right)


def faults(
    servers: Servers, folder: Path, command: list[str], answers: Mapping[str, Answer], status: int, *, connects: int = 1
) -> dict[str, object]:
    """Return the answers that `punch COMMAND` does not handle as expected, with its errors."""
    asked = {name: servers.answering(answer) for name, answer in answers.items()}
    runs = run_all([[*command, "--edge", each.url] for each in asked.values()], folder)
    found: dict[str, object] = {}
    for (name, server), done in zip(asked.items(), runs, strict=True):
        problem = wrong(done, status)
        if len(server.requests) > connects:
            problem += f" {len(server.requests)} connections"
        if problem:
            found[name] = problem, done
    return found


GROUPS: dict[str, Callable[[str], bool]] = {
    "redirections": lambda name: name.startswith("30"),
    "statuses": lambda name: name[:1].isdigit() and not name.startswith(("30", "101")),
    "handshakes": lambda name: name.startswith("101"),
    "without end": lambda name: name.startswith(("endless", "drip", "silence")),
    "others": lambda name: (
        not name[:1].isdigit() and not name.startswith("endless") and name not in ("drip", "silence")
    ),
}


def group(name: str) -> dict[str, Answer]:
    return {each: answer for each, answer in NO_WEBSOCKET.items() if GROUPS[name](each)}


def test_every_answer_is_in_one_group() -> None:
    assert sorted(each for name in GROUPS for each in group(name)) == sorted(NO_WEBSOCKET)


@pytest.mark.parametrize("answers", GROUPS)
def test_where_no_websocket_comes_about_the_edge_cannot_be_reached(
    answers: str, servers: Servers, folder: Path
) -> None:
    assert faults(servers, folder, CLIENTS["send"], group(answers), 2) == {}


@pytest.mark.parametrize("command", [CLIENTS["receive"], CLIENTS["pipe"], CLIENTS["forward"], PROBE])
def test_all_commands_take_the_same_answers(command: list[str], servers: Servers, folder: Path) -> None:
    some = (
        "301-relative",
        "302-absolute",
        "302-loop",
        "302-twice",
        "307-relative",
        "308-absolute",
        "401",
        "403-escapes",
    )
    other = ("403-escapes", "binary", "reset", "101-wrong-accept", "endless-body", "drip")
    assert faults(servers, folder, command, {name: NO_WEBSOCKET[name] for name in (*some, *other)}, 2) == {}


def test_the_reason_names_what_was_answered(servers: Servers, folder: Path) -> None:
    answers = ["302-absolute", "401", "403", "ssh", "nothing", "101-wrong-accept", "silence"]
    urls = [servers.answering(NO_WEBSOCKET[each]).url for each in answers]
    runs = run_all([["send", "file", "--edge", url] for url in urls], folder)
    for (_, url, done), reason in zip(
        zip(answers, urls, runs, strict=True),
        (
            "it does not answer as an edge (HTTP status 302, a redirection, which is not followed)",
            "it does not answer as an edge (HTTP status 401)",
            "it refuses: no",
            "it does not answer as an edge (invalid HTTP status line: SSH-2.0-OpenSSH_9.2p1)",
            "it does not answer as an edge (connection closed while reading HTTP status line)",
            "it does not answer as an edge (invalid Sec-WebSocket-Accept header: AAAAAAAAAAAAAAAAAAAAAAAAAAA=)",
            "no answer within 5 s",
        ),
        strict=True,
    ):
        expected = f"punch: edge: {url!r} cannot be reached: {reason}; expected a running `punch edge`\n"
        assert done.stderr == expected


@pytest.mark.parametrize("stage", ["at once", "after the welcome"])
def test_a_bad_frame_ends_the_session(stage: str, servers: Servers, folder: Path) -> None:
    first = [] if stage == "at once" else [WELCOME]
    names = BAD if stage == "at once" else ("garbage", "huge", "not-utf8", "json", "escapes", "close-0", "fragments")
    answers = {name: accepts(*first, BAD[name], heard=len(first)) for name in names}
    assert faults(servers, folder, [*CLIENTS["send"], "--strategy", "reuse"], answers, 1) == {}


def test_a_bad_frame_ends_a_probe(servers: Servers, folder: Path) -> None:
    answers = {name: accepts(bad) for name, bad in BAD.items()}
    assert (
        faults(servers, folder, PROBE, {**answers, **{name: LOST[name] for name in LOST if name != "pings"}}, 2) == {}
    )


@pytest.mark.parametrize("command", [CLIENTS["send"], PROBE], ids=["send", "probe"])
def test_what_is_no_tls_is_no_edge(command: list[str], servers: Servers, folder: Path) -> None:
    names = (
        "nothing",
        "reset",
        "binary",
        "zeros",
        "http10",
        "302-absolute",
        "tls-alert",
        "silence",
        "drip",
        "endless-line",
    )
    asked = [servers.answering(NO_WEBSOCKET[each], asked=False).url.replace("ws:", "wss:") for each in names]
    runs = run_all([[*command, "--edge", url] for url in asked], folder)
    assert {name: done for name, done in zip(names, runs, strict=True) if wrong(done, 2)} == {}


def test_of_an_edge_that_is_lost_again_and_again_the_client_has_enough_after_a_while(
    servers: Servers, folder: Path
) -> None:
    assert faults(servers, folder, [*CLIENTS["send"], "--strategy", "reuse"], LOST, 1, connects=1000) == {}
