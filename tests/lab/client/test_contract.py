"""The contract of client output, and what the lab accepts of it."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.lab.client.contract import EVENTS, FAILURES, Speaker
from punchlab.lab.client.output import LINE_BYTES, OUTPUT_BYTES, Output
from punchlab.lab.results.outcomes import OUTCOMES
from punchlab.lab.trial import record
from punchlab.lab.trial.verdict import ClientRun
from tests.examples import EXAMPLES
from tests.lab.client.odd_events import RECEIVED, STARTED, trial_of

SENDER = Speaker("mine", "sender", "a")


def output_of(*lines: bytes | dict[str, Any], speaker: Speaker = SENDER) -> Output:
    output = Output(speaker, STARTED)
    for line in lines:
        output.take((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n", RECEIVED)
    return output


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"starting up",
        b"[1, 2]",
        b"3",
        b'"done"',
        b"null",
        b"{}",
        b'{"t": 1}',
        b'{"event": 1}',
        b'{"event": null}',
        b'{"event": ["done"]}',
        b'{"event": {"done": 1}}',
        b'{"event": "done"',
        b'{"event": "done"} {"event": "done"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_line_without_an_event_is_ignored(line: bytes) -> None:
    output = output_of(line, {"event": "done"})
    assert [event["event"] for event in output.events] == ["done"]
    assert output.error is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "progress", "t": "soon", "local": 5}',
        b'{"event": "progress", "t": NaN}',
        b'{"event": "listening", "t": []}',  # an edge's event, so not checked for a sender
        b'{"event": "progress", "t": ' + b"9" * 5000 + b"}",
        b'{"event": "\\ud800"}',
        b'{"event": "caf\xe9"}',
    ],
)
def test_an_unknown_event_can_have_any_fields(line: bytes) -> None:
    output = output_of(line)
    assert [event["t"] for event in output.events] == [RECEIVED]
    assert output.error is None


@pytest.mark.parametrize(
    "t",
    [
        {},
        {"t": None},
        {"t": 1},  # from another clock
        {"t": -5.5},
        {"t": RECEIVED + 1},
        {"t": 1_790_000_000.0},  # CLOCK_REALTIME
        {"t": STARTED - 0.001},
    ],
)
def test_without_a_valid_time_the_time_of_receipt_is_used(t: dict[str, object]) -> None:
    (event,) = output_of({"event": "done", **t}).events
    assert event["t"] == RECEIVED


@pytest.mark.parametrize("t", [STARTED, 100.25, RECEIVED])
def test_a_time_while_the_client_runs_is_used(t: float) -> None:
    (event,) = output_of({"event": "done", "t": t}).events
    assert event["t"] == t


@pytest.mark.parametrize("event", [name for name, rule in EVENTS.items() if "sender" in rule.roles])
@pytest.mark.parametrize(
    "t", ['"1"', "true", "false", "NaN", "Infinity", "-Infinity", "1e400", "[]", "{}", "9" * 400, "9" * 5000]
)
def test_a_time_that_is_no_finite_number_violates_the_contract(event: str, t: str) -> None:
    output = output_of(f'{{"event": "{event}", "t": {t}}}'.encode())
    assert output.events == []
    assert output.error is not None
    assert output.error.startswith(f"client mine, sender: event '{event}', field 't': ")
    assert output.error.endswith("cannot be used; expected a number of seconds of CLOCK_MONOTONIC")
    assert len(output.error) < 250


GOOD = {"local": "192.168.1.2:4000", "remote": "11.16.1.2:5000"}


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("agreed", "local", None),
        ("agreed", "remote", None),
        ("agreed", "local", 4000),
        ("agreed", "local", ["192.168.1.2", 4000]),
        ("agreed", "local", "192.168.1.2"),
        ("agreed", "local", "192.168.1.2:0"),
        ("agreed", "local", "192.168.1.2:65536"),
        ("agreed", "local", "192.168.1.2:٣"),
        ("agreed", "local", "localhost:4000"),
        ("agreed", "local", "2a11::1:4000"),
        ("agreed", "local", "[11.0.0.1]:4000"),
        ("agreed", "remote", ""),
        ("failed", "outcome", None),
        ("failed", "outcome", "timeout"),
        ("failed", "outcome", "direct"),
        ("failed", "outcome", ["refused"]),
        ("failed", "reason", 7),
        ("attempt", "kind", {}),
        ("code", "code", None),
        ("code", "code", ""),
        ("code", "code", "\n"),
        ("code", "code", "one\ntwo"),
        ("code", "code", "one\r"),
        ("code", "code", "a\0b"),
        ("code", "code", "\ud800"),
        ("code", "code", "x" * 5000),
        ("code", "code", 123456),
    ],
)
def test_a_wrong_field_is_named_with_client_and_role(event: str, field: str, value: object) -> None:
    fields = {"agreed": GOOD, "failed": {"outcome": "refused"}}.get(event, {})
    output = output_of({"event": event, **fields, field: value}, {"event": "done"})
    assert output.error is not None
    assert output.error.startswith(f"client mine, sender: event '{event}', field '{field}': ")
    assert ("missing; expected" if value is None else "cannot be used; expected") in output.error
    assert output.error.isprintable()
    assert output.events == []


def test_an_edge_is_named_by_its_node() -> None:
    output = output_of({"event": "joined", "t": "now"}, speaker=Speaker("mine", "edge", "edge2"))
    assert output.error is not None
    assert output.error.startswith("client mine, edge edge2: event 'joined', field 't': 'now' cannot be used")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("11.0.0.1:7000", "11.0.0.1:7000"),
        ("[2a11::0:1]:7000", "[2a11::1]:7000"),
        ("[::ffff:11.0.0.1]:7000", "11.0.0.1:7000"),  # from a dual-stack socket
    ],
)
def test_an_endpoint_is_normalized_as_in_the_capture(given: str, taken: str) -> None:
    (event,) = output_of({"event": "agreed", "local": given, "remote": given}).events
    assert event["local"] == event["remote"] == taken


def test_reasons_are_printable_and_never_missing() -> None:
    one, other = output_of(
        {"event": "failed", "outcome": "refused", "reason": "no \ud800"}, {"event": "failed", "outcome": "refused"}
    ).events
    assert one["reason"] == "no ?"
    assert other["reason"] == "no reason given"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_lines_are_complete_however_they_are_split(end: bytes, size: int) -> None:
    text = end.join(json.dumps({"event": "done", "number": number}).encode() for number in range(20)) + end
    text = b"\xef\xbb\xbf" + text + b'{"event": "last"}'
    output = Output(SENDER, STARTED)
    for start in range(0, len(text), size):
        output.take(text[start : start + size], RECEIVED)
    output.finish(RECEIVED)
    assert [event.get("number") for event in output.events] == [*range(20), None]


@pytest.mark.parametrize(
    ("chunk", "bound"),
    [
        (b"x" * 1000, f"a line of more than {LINE_BYTES >> 20} MiB on standard output"),
        (b"x" * (2 * LINE_BYTES) + b"\n", f"a line of more than {LINE_BYTES >> 20} MiB on standard output"),
        (b"x" * 999 + b"\n", f"more than {OUTPUT_BYTES >> 20} MiB on standard output"),
        (b'{"event": "x", "more": "' + b"x" * 900 + b'"}\n', f"more than {OUTPUT_BYTES >> 20} MiB on standard output"),
        (b"a log\n" * 1000, f"more than {OUTPUT_BYTES >> 20} MiB on standard output"),
    ],
)
def test_output_is_limited(chunk: bytes, bound: str) -> None:
    output = Output(SENDER, STARTED)
    for _ in range(2 * OUTPUT_BYTES // len(chunk)):
        output.take(chunk, RECEIVED)
        if output.excessive:
            break
    assert output.error == f"client mine, sender: {bound}"


def test_a_line_received_byte_by_byte_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        output = Output(SENDER, STARTED)
        began = time.process_time()
        for _ in range(count):
            output.take(b"x", RECEIVED)
        return time.process_time() - began

    # Eight times as many bytes take eight times as long; if every byte copied the line, it would be 64 times.
    assert min(seconds(400_000) for _ in range(3)) < 24 * min(seconds(50_000) for _ in range(3))


# Any output of a client.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ENDPOINTS = st.sampled_from(["11.0.0.1:7000", "[2a11::1]:80", "11.0.0.1", ":", "[::ffff:11.0.0.1]:1", "1.2.3.4:٣"])
LIKELY = st.fixed_dictionaries(
    {"event": st.sampled_from([*EVENTS, "progress"])},
    optional={
        "t": st.floats(STARTED, RECEIVED) | JSON,
        "local": ENDPOINTS | JSON,
        "remote": ENDPOINTS | JSON,
        "outcome": st.sampled_from(FAILURES) | JSON,
        "reason": st.text() | JSON,
        "code": st.text() | JSON,
        "kind": st.just("srflx") | JSON,
    },
)
WELL_FORMED = st.builds(lambda value: json.dumps(value).encode(), LIKELY | JSON)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a likely event with some bytes replaced, removed or added."""
    line = bytearray(draw(WELL_FORMED))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(line)


LINES = st.lists(WELL_FORMED | mutated() | st.binary(max_size=50), max_size=6)


@given(LINES, LINES, st.tuples(*[st.none() | st.integers(-9, 3)] * 2), st.booleans(), st.integers(1, 60))
@settings(max_examples=EXAMPLES)
def test_any_output_of_clients_gives_a_verdict_and_a_record(
    one: list[bytes], other: list[bytes], statuses: tuple[int | None, int | None], arrived: bool, size: int
) -> None:
    sides = []
    for role, host, lines, status in zip(("sender", "receiver"), "ab", (one, other), statuses, strict=True):
        output, written = Output(Speaker("mine", role, host), STARTED), b"\n".join(lines)
        for start in range(0, len(written), size):
            output.take(written[start : start + size], RECEIVED)
        output.finish(RECEIVED)
        for event in output.events:
            assert isinstance(event["t"], float)
            assert math.isfinite(event["t"])
        sides.append(ClientRun(host, output.events, status, "", output.error))
    trial = trial_of(sides, arrived=arrived)
    outcome, reason = trial.outcome, trial.reason
    assert outcome in OUTCOMES
    if sides[0].broken or sides[1].broken:
        assert (outcome, reason) == ("client_error", sides[0].broken or sides[1].broken)
    assert all(seconds >= 0 for seconds in trial.timings_s.values())
    made = record.record(trial, id="ab-1", topology="ab", nat_a="none", nat_b="none")
    text = json.dumps(made, allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode())["outcome"] == outcome
    str(trial).encode()
