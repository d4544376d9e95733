"""Trials of any client: contract violations are errors of the client, and each client has its own edges."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from punchlab import InputError, Lab
from punchlab.lab.campaign.cells import Cell, Job
from punchlab.lab.campaign.execute import run_job
from punchlab.lab.client import edges
from punchlab.lab.client.contract import CODE, INSTANT
from punchlab.lab.client.description import PUNCH, Client, Words
from punchlab.lab.lab import Lab as RunningLab
from punchlab.lab.process.forked import Function
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.record import record
from punchlab.lab.trial.trial import Trial
from punchlab.topologies import AB, CD

PUNCH_COMMAND = ("{python}", "-P", "-m", "punchlab.punch")
PLAIN = replace(
    PUNCH,
    name="plain",
    function=None,
    edge=(*PUNCH_COMMAND, *PUNCH.edge),
    sender=(*PUNCH_COMMAND, *PUNCH.sender),
    receiver=(*PUNCH_COMMAND, *PUNCH.receiver),
)
"""The client of this project as commands."""


def says(*events: dict[str, Any], then: str = "") -> Words:
    """Return a shell command that prints events and then does something else."""
    lines = "\n".join(json.dumps(event) for event in events)
    return ("sh", "-c", f"printf '%s\\n' '{lines}'; {then}".replace("{", "{{").replace("}", "}}"))


EDGE = says({"event": "listening"}, then="exec sleep 1000")
FAILS = says({"event": "failed", "outcome": "punch_timeout"}, then="exit 1")
MINE = Client("mine", EDGE, FAILS, FAILS, ("x",), tells_code=False)


@pytest.fixture
def lab() -> Iterator[RunningLab]:
    with Lab(AB(nat_a="full_cone", nat_b="full_cone", delay="0ms", edge_delay="0ms")) as built:
        yield built


def changed(client: Client, **fields: Any) -> Client:
    return replace(client, **fields)


SCENARIO = {"id": "x-1", "topology": "x", "nat_a": "none", "nat_b": "none"}


def punch(lab: RunningLab, client: Client, **options: Any) -> Trial:
    one, other = (node.name for node in lab if node.kind == "host")
    return lab.punch(one, other, client=client, strategy=client.strategies[0], deadline_s=1, **options)


BROKEN = [
    ({"event": "agreed", "remote": "11.0.0.1:1"}, "event 'agreed', field 'local': missing; expected an endpoint"),
    ({"event": "done", "t": "soon"}, "event 'done', field 't': 'soon' cannot be used; expected a number"),
    ({"event": "failed", "outcome": "timeout"}, "event 'failed', field 'outcome': 'timeout' cannot be used"),
    ({"event": "attempt", "kind": 7}, "event 'attempt', field 'kind': 7 cannot be used; expected text"),
]


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize(("event", "message"), BROKEN)
def test_a_wrong_event_is_an_error_of_the_client_at_once(
    lab: RunningLab, role: str, event: dict[str, Any], message: str
) -> None:
    began = time.monotonic()
    trial = punch(lab, changed(MINE, **{role: says(event, then="exec sleep 1000")}))
    assert trial.outcome == "client_error"
    assert str(trial.reason).startswith(f"client mine, {role}: {message}")
    assert time.monotonic() - began < 10
    json.dumps(record(trial, **SCENARIO), allow_nan=False)
    assert punch(lab, PUNCH).direct


def test_a_wrong_event_is_no_error_of_the_lab_in_a_campaign() -> None:
    client = replace(MINE, sender=says({"event": "failed"}))
    cell = Cell("ab", AB, ("a", "b"), ("full_cone", "full_cone"), options=TrialOptions(client=client, strategy="x"))
    done = run_job(Job(cell, 1, "auto", 0)).record
    assert done["outcome"] == "client_error"
    assert done["reason"].startswith("client mine, sender: event 'failed', field 'outcome': missing; expected one of")


def test_events_without_a_time_get_the_time_of_receipt(lab: RunningLab) -> None:
    events = [{"event": name} for name in ("peer_known", "first_syn", "connected", "agreed", "done")]
    events[3] |= {"local": "192.168.1.2:4000", "remote": "11.16.1.2:4000"}
    trial = punch(lab, replace(MINE, sender=says(*events), receiver=says(*events)))
    assert set(trial.timings_s) == {
        *("rendezvous", "first_syn", "connected", "agreed", "transferred", "known_to_connected", "known_to_agreed")
    }
    assert all(0 <= seconds < 20 for seconds in trial.timings_s.values())


@pytest.mark.parametrize("role", ["edge", "sender", "receiver"])
@pytest.mark.parametrize(
    ("words", "function", "message"),
    [
        (("/nonexistent/client", "x"), None, "/nonexistent/client: No such file or directory"),
        (("/etc/passwd",), None, "/etc/passwd: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_started_is_an_error_of_the_client(
    lab: RunningLab, role: str, words: Words, function: Function | None, message: str
) -> None:
    trial = punch(lab, changed(MINE, function=function, **{role: words}))
    who = "edge edge1" if role == "edge" else role
    assert (trial.outcome, trial.reason) == ("client_error", f"client mine, {who}: {message}")
    assert punch(lab, PUNCH).direct


def test_a_missing_function_is_an_error_of_the_client(lab: RunningLab) -> None:
    trial = punch(lab, replace(MINE, function=Function("json:no_such_function")))
    assert trial.outcome == "client_error"
    assert str(trial.reason).startswith("client mine, edge edge1: json:no_such_function: AttributeError")


# The code.


def tells(sender: Words, folder: Path) -> Client:
    """A client whose receiver stores what it reads from standard input."""
    reads = ("sh", "-c", f"cat > {folder / 'read'}; exec sleep 1000")
    return replace(MINE, sender=sender, receiver=reads, tells_code=True, writes=(str(folder),))


def test_the_receiver_reads_the_code_as_one_line_of_standard_input(lab: RunningLab, tmp_path: Path) -> None:
    punch(lab, tells(says({"event": "code", "code": "a code"}, then="sleep 1"), tmp_path))
    assert (tmp_path / "read").read_text() == "a code\n"


@pytest.mark.parametrize(
    ("sender", "reason"),
    [
        (says({"event": "failed", "outcome": "no_rendezvous", "reason": "no edge"}, then="exit 2"), "a: no edge"),
        (says(then="echo broken >&2; exit 2"), "a: broken"),
        (says({"event": "done"}), "client mine, sender: event 'code': not received before the exit"),
        (
            says({"event": "code", "code": "\n"}, then="exec sleep 1000"),
            f"client mine, sender: event 'code', field 'code': '\\n' cannot be used; expected {CODE.words}",
        ),
    ],
)
def test_without_a_code_the_receiver_gets_none_and_the_sender_is_the_cause(
    lab: RunningLab, sender: Words, reason: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    trial = punch(lab, tells(sender, tmp_path))
    assert time.monotonic() - began < 10
    one, other = trial.sides
    failed = one.last("failed")
    found = one.broken or f"a: {failed['reason'] if failed else one.errors}"
    assert found == reason
    assert (other.returncode, other.broken) == (None, None)
    read = tmp_path / "read"
    assert not read.exists() or read.read_text() == ""


def test_a_sender_that_prints_no_code_ends_the_trial(
    lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("punchlab.lab.trial.clients._START_S", 1.0)
    trial = punch(lab, tells(says(then="exec sleep 1000"), tmp_path))
    assert (trial.outcome, trial.reason) == (
        "client_error",
        "client mine, sender: event 'code': not received within 1 s",
    )


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_sender_that_fails_early_ends_the_trial(lab: RunningLab, how: str) -> None:
    assert punch(lab, PUNCH).direct
    assert lab.edge_network is not None
    getattr(lab.edge_network, how)("edge1")
    sender, receiver = punch(lab, PUNCH).sides
    assert (sender.last("failed") or {})["outcome"] == "no_rendezvous"
    assert (receiver.returncode, receiver.errors) == (None, "")


# Edges.


def running(lab: RunningLab) -> str:
    """Return the command lines of the processes in the edge's node."""
    return "; ".join(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in lab["edge1"].present())


def test_each_client_has_its_own_edges(lab: RunningLab) -> None:
    other = replace(MINE, edge=says({"event": "listening"}, then="exec sleep 2000"))
    assert punch(lab, PUNCH).direct
    held = lab.edge_network
    for client, command in ((MINE, "sleep 1000"), (other, "sleep 2000"), (MINE, "sleep 1000")):
        punch(lab, client)
        assert running(lab).strip().endswith(command)
        assert lab.edge_network is held
        assert held is not None
        assert held.client is client
        assert held.processes[0].process.pid in lab["edge1"].present()
    assert punch(lab, PLAIN).direct
    assert "punch edge" in running(lab)
    assert punch(lab, PUNCH).direct


def test_the_edges_of_a_client_keep_running_for_its_next_trial(lab: RunningLab) -> None:
    punch(lab, MINE)
    before = lab["edge1"].present()
    punch(lab, replace(MINE))
    assert lab["edge1"].present() == before != frozenset()


def test_a_client_with_invalid_edges_does_not_affect_those_of_another(lab: RunningLab) -> None:
    punch(lab, MINE)
    before = lab["edge1"].present()
    with pytest.raises(InputError, match=r"^client other, edge: .* a value for \{listen6\} in this trial"):
        punch(lab, replace(MINE, name="other", edge=("x", "{listen6}")))
    assert lab["edge1"].present() == before != frozenset()


def test_killed_and_frozen_edges_stay_so_for_the_next_client(lab: RunningLab) -> None:
    punch(lab, MINE)
    assert lab.edge_network is not None
    lab.edge_network.freeze("edge1")
    sender, _receiver = punch(lab, PUNCH).sides
    assert "no answer" in (sender.last("failed") or {})["reason"]
    lab.edge_network.kill("edge1")
    punch(lab, MINE)
    assert lab["edge1"].present() == frozenset()
    with pytest.raises(InputError, match="edge: 'edge1' cannot be used; expected an edge that has been started"):
        lab.edge_network.process("edge1")
    lab.edge_network.start("edge1")
    lab.edge_network.wait()
    assert running(lab).strip().endswith("sleep 1000")
    assert punch(lab, PUNCH).direct


def test_edges_that_do_not_join_need_no_event_for_it() -> None:
    with Lab(CD()) as lab:
        trial = punch(lab, replace(MINE, sender=says({"event": "done"}), receiver=says({"event": "done"})))
        assert [side.returncode for side in trial.sides] == [0, 0]
        assert lab.edge_network is not None
        assert lab.edge_network.failure() is None


@pytest.mark.parametrize(
    ("edge", "reason"),
    [
        ((*EDGE, ("--join", "{join}")), "client mine, edge edge1: event 'joined': 0 within 1 s; expected 1"),
        (says(then="exec sleep 1000"), "client mine, edge edge1: event 'listening': 0 within 1 s; expected 1"),
        (
            says({"event": "listening", "t": "now"}, then="exec sleep 1000"),
            f"client mine, edge edge1: event 'listening', field 't': 'now' cannot be used; expected {INSTANT.words}",
        ),
        (
            says(then="echo one >&2; echo no such option >&2; exit 7"),
            "client mine, edge edge1: it exited with status 7: no such option",
        ),
    ],
)
def test_edges_that_do_not_start_are_an_error_of_the_client(
    edge: Words, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "_START_S", 1.0)
    with Lab(CD()) as lab:
        trial = punch(lab, replace(MINE, edge=edge))
        assert (trial.outcome, trial.reason) == ("client_error", reason)
        assert [side.events for side in trial.sides] == [[], []]
        assert lab["c"].present() == lab["d"].present() == frozenset()
    json.dumps(record(trial, **SCENARIO))


def ends(folder: Path) -> str:
    """Return shell words that kill the shell when the folder contains `over`, and then create `gone`."""
    waits = f"until [ -e {folder}/over ]; do sleep 0.01; done; rm {folder}/over"
    return f"(pid=$$; {waits}; kill -9 $pid; while kill -0 $pid 2>&-; do :; done; touch {folder}/gone) & "


def lets_end(folder: Path) -> str:
    """Return shell words that trigger this and wait until the edge has exited."""
    return f"touch {folder}/over; until [ -e {folder}/gone ]; do sleep 0.01; done; rm {folder}/gone"


def test_an_edge_that_exits_during_a_trial_is_the_cause_of_its_failure_and_is_restarted(
    lab: RunningLab, tmp_path: Path
) -> None:
    edge = ("sh", "-c", f"{ends(tmp_path)} echo stumbled >&2; {EDGE[2]}")
    mine = replace(MINE, edge=edge, sender=says(then=f"{lets_end(tmp_path)}; exit 1"), writes=(str(tmp_path),))
    first = None
    for _ in range(2):
        trial = punch(lab, mine)
        reason = "client mine, edge edge1: it exited with status -9: stumbled"
        assert (trial.outcome, trial.reason) == ("client_error", reason)
        assert lab.edge_network is not None
        pid = lab.edge_network.process("edge1").process.pid
        assert pid != first
        first = pid
    assert punch(lab, PUNCH).direct


def test_an_edge_that_exits_after_the_file_arrived_does_not_change_the_outcome(lab: RunningLab, tmp_path: Path) -> None:
    punch_edge = " ".join(word for word in PLAIN.edge[1:] if isinstance(word, str))
    edge = ("sh", "-c", f"{ends(tmp_path)} exec {sys.executable} {punch_edge}")
    sends = " ".join(word for word in PLAIN.sender if isinstance(word, str))
    sender = ("sh", "-c", f"{sends} && {{ {lets_end(tmp_path)}; }}")
    mine = replace(PLAIN, name="mine", edge=edge, sender=sender, writes=(str(tmp_path),))
    for _ in range(2):
        trial = lab.punch("a", "b", client=mine)
        assert trial.direct, trial
        assert lab.edge_network is not None
        assert lab.edge_network.failure() == "client mine, edge edge1: it exited with status -9"
