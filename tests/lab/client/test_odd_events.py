"""Events of hostile clients: each can be written anywhere, or violates the contract in one line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from punchlab import reports
from punchlab.lab.campaign.results import Results
from punchlab.lab.client.contract import DEEPEST, EVENTS, TIME, Speaker
from punchlab.lab.client.output import ERROR_BYTES, EVENTS_BYTES, OUTPUT_BYTES, Output
from punchlab.lab.kernel.folder import Folder
from punchlab.lab.trial.record import record
from punchlab.lab.trial.verdict import ClientRun, timings
from punchlab.reports.results import read_run
from tests.lab.client.odd_events import RECEIVED, STARTED, Case, cases, trial_of

CASES = tuple(cases())
SPEAKERS = {role: Speaker("mine", role, node) for role, node in (("edge", "edge1"), ("sender", "a"), ("receiver", "b"))}


def output_of(role: str, *lines: bytes) -> Output:
    output = Output(SPEAKERS[role], STARTED)
    for line in lines:
        output.take(line + b"\n", RECEIVED)
    return output


def assert_harmless(event: Any) -> None:
    json.loads(json.dumps(event, ensure_ascii=False).encode())  # lone surrogates cannot be encoded
    repr(event)


@pytest.mark.parametrize(("role", "event"), sorted({(case.role, case.event) for case in CASES}))
def test_an_odd_event_is_accepted_or_named_in_one_line(role: str, event: str) -> None:
    fields = {field.name: field for field in (TIME, *EVENTS[event].fields)}
    for case in (case for case in CASES if (case.role, case.event) == (role, event)):
        output = output_of(role, case.line)
        if output.error is not None:
            assert output.events == [], str(case)
            assert output.error.startswith(f"client mine, {'edge edge1' if role == 'edge' else role}: "), str(case)
            assert (
                "nested more than 100 levels" in output.error
                or f"event '{event}', field '{case.field}'" in output.error
            )
            assert output.error.isprintable(), str(case)
            assert len(output.error) < 400, str(case)
        for taken in output.events:
            assert_harmless(taken)
            for name, field in fields.items() if taken["event"] == event else ():
                assert taken[name] is None or field.kind.take(taken[name]) == taken[name], str(case)
                assert taken[name] is not None or not field.required, str(case)


DEEP = [
    case
    for case in CASES
    if "beyond" in case.what or "not end" in case.what or ("deep" in case.what and case.field != "event")
]


@pytest.mark.parametrize("case", DEEP, ids=str)
def test_an_event_that_is_nested_too_deeply_is_an_error_at_once(case: Case) -> None:
    output = output_of(case.role, case.line, b'{"event": "done"}')
    assert output.error is not None
    assert output.error.endswith(f": an event is nested more than {DEEPEST} levels")
    assert output.events == []


@pytest.mark.parametrize("deep", ['{"a": %s}', "[%s]"])
def test_an_event_can_be_nested_up_to_the_limit(deep: str) -> None:
    value = "0"
    for _ in range(DEEPEST - 1):
        value = deep % value
    assert output_of("sender", f'{{"event": "progress", "x": {value}}}'.encode()).error is None
    assert output_of("sender", f'{{"event": "progress", "x": {deep % value}}}'.encode()).error is not None
    assert output_of("sender", b'{"event": "x", "y": [%s]}' % b",".join([b"[[]]"] * 1000)).error is None


def test_reports_accept_every_odd_event(tmp_path: Path) -> None:
    """The file of records, the report, its tables and the summary."""
    outcomes, bystander = set(), ClientRun("b", [], None, "")
    with Folder.open(tmp_path) as folder, contextlib.closing(Results(folder)) as results:
        for number, case in enumerate(case for case in CASES if case.role == "sender"):
            output = output_of(case.role, case.line)
            side = ClientRun("a", output.events, 1, case.line[:100].decode(errors="replace"), output.error)
            trial = trial_of((side, bystander))
            str(trial).encode()
            known = {"topology": "ab", "nat_a": "none", "nat_b": "none", "unsolicited": "preset", "seed": 0}
            written = record(trial, id=f"trial-{number}", **known)
            assert trial.reason is not None
            assert trial.reason.isprintable()
            assert len(json.dumps(written)) < 10_000
            results.append(written)
            outcomes.add(trial.outcome)
    assert {"refused", "client_error"} <= outcomes
    assert len(read_run(tmp_path).trials) == number + 1
    page = reports.write(tmp_path).page.read_text()
    assert "\x1b" not in page
    assert "<script>alert" not in page


def events(*names: str) -> Sequence[dict[str, Any]]:
    return [{"event": name, "t": STARTED + number} for number, name in enumerate(names)]


def test_events_in_a_wrong_order_measure_nothing() -> None:
    order = ("done", "agreed", "connected", "first_syn", "peer_known")
    sides = [ClientRun(host, events(*order), 0, "") for host in "ab"]
    assert timings(sides, STARTED) == {"rendezvous": 4.0}
    assert set(timings([ClientRun(host, events(*reversed(order)), 0, "") for host in "ab"], STARTED)) == {
        *("rendezvous", "first_syn", "connected", "agreed", "transferred", "known_to_connected", "known_to_agreed")
    }


FLOODS = {
    "events": [b'{"event":"x"}\n'],
    "events of names of their own": [b'{"event":"%d"}\n' % number for number in range(100_000)],
    "attempts": [b'{"event":"attempt","kind":"srflx"}\n'],
    "arrays": [b'{"event":"x","y":[%s]}\n' % b",".join([b"[]"] * 1000)],
    "objects": [b'{"event":"x","y":[%s]}\n' % b",".join([b'{"":{}}'] * 1000)],
    "texts": [b'{"event":"x","y":[%s]}\n' % b",".join([b'"\xc4\x80"'] * 1000)],
    "names": [b'{"event":"x",%s}\n' % b",".join(b'"%d":1' % number for number in range(1000))],
    "long events": [b'{"event":"x","y":"%s"}\n' % (b"x" * 100_000)],
    "log": [b"a log\n"],
    "a line": [b"x"],
    "a line of an event": [b'{"event":"x","y":"', *[b"x" * 60_000] * 1000],
    "NUL bytes": [b"\0" * 1000],
    "deep arrays": [b'{"event":"x","y":%s%s}\n' % (b"[" * 50, b"]" * 50)],
    "no text": [b"\xff\xfe\n"],
}


def chunks(pieces: Sequence[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    """Yield the pieces repeatedly, as received from a pipe."""
    held = bytearray()
    for piece in cycle(pieces):
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]


def memory(value: object) -> int:
    """Return the memory in bytes of a JSON value with all its parts."""
    seen: dict[int, object] = {}
    level = [value]
    while level:
        fresh = {id(each): each for each in level if id(each) not in seen}
        seen |= fresh
        level = [
            inner
            for each in fresh.values()
            for inner in ((*each, *each.values()) if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
    return sum(map(sys.getsizeof, seen.values()))


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_ended_within_the_memory_limit(kind: str) -> None:
    output, taken = Output(SPEAKERS["sender"], STARTED), 0
    for chunk in chunks(FLOODS[kind]):
        output.take(chunk, RECEIVED)
        taken += len(chunk)
        if output.excessive:
            break
    assert output.error is not None
    assert "more than" in output.error
    assert taken <= OUTPUT_BYTES + (1 << 16)
    assert memory(output.events) < 1.3 * EVENTS_BYTES


def test_a_flood_on_standard_error_is_ended_and_its_tail_is_kept() -> None:
    output, taken = Output(SPEAKERS["sender"], STARTED), 0
    for chunk in chunks([b"\x1b[2J no\n" * 8192]):
        output.take_errors(chunk, RECEIVED)
        taken += len(chunk)
        if output.excessive:
            break
    assert output.error == "client mine, sender: more than 64 MiB on standard error"
    assert taken <= ERROR_BYTES + (1 << 16)
    assert len(output.errors) <= 2000
    (reason,) = {trial_of((ClientRun("a", [], 1, output.errors), ClientRun("b", [], 0, ""))).reason}
    assert reason == "a: \\x1b[2J no"


def test_after_an_invalid_event_all_output_is_discarded() -> None:
    output = output_of("sender", b'{"event": "done", "t": "now"}', *[b'{"event": "done"}'] * 1000)
    assert (output.events, output.first("done"), output.count("done")) == ([], None, 0)
