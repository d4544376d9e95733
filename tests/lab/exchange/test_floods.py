"""A client cannot keep the lab busy with its packets: the work that they make is proportional to their number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bench.floods import FLOODS, PAIR, WAYS, flood
from punchlab.lab import exchange
from punchlab.lab.campaign.cells import Cell, Job
from punchlab.lab.campaign.execute import run_job
from punchlab.lab.capture import Frame, Recording
from punchlab.lab.exchange import ExcessiveError, Exchange, bounds, delivery
from punchlab.lab.trial import evidence
from punchlab.lab.trial.options import TrialOptions
from punchlab.topologies import AB
from tests.lab.exchange.story import Story

FOLDER = str(Path(exchange.__file__).parent)
PACKETS = 100
TWICE = 2.25
"""Twice the packets may cost so many times the steps: n log n, and what does not depend on the number."""


def steps(task: Callable[[], object]) -> int:
    """How many instructions of Python the modules of the exchange execute in the task."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        task()
    finally:
        sys.settrace(before)
    return count


def analyse(frames: Sequence[Frame]) -> None:
    """Everything that a trial and its record ask for."""
    story = Exchange(frames, PAIR)
    delivery(story, WAYS)
    story.summary()
    for host in ("a", "b"):
        story.first_syn(host)
        story.since_rendezvous_s(host)
    assert story.winner is None or story.winner in story.connections


@pytest.mark.parametrize("kind", FLOODS)
def test_twice_the_packets_are_twice_the_work(kind: str) -> None:
    few, many = flood(kind, PACKETS), flood(kind, 2 * PACKETS)
    assert len(many) > 1.9 * len(few)
    assert steps(lambda: analyse(many)) < TWICE * steps(lambda: analyse(few))


def test_floods_are_what_they_say() -> None:
    """The cases above would be easy if the analysis did not see them as what is hard."""
    found = {kind: Exchange(flood(kind, 10), PAIR) for kind in FLOODS}
    assert len(found["syns to a closed port"].refused) == 10
    assert len(found["equal syns that are in flight at once"].segments) == 10
    assert len(found["connections"].connections) == 10
    assert all(each.established_ns for each in found["connections"].connections)
    assert len(found["connections on one port"].connections) == 1
    assert len(found["equal connections"].connections[0].segments) == 40
    assert len(found["syns of both that never cross"].syns()) == 20
    assert not found["syns of both that never cross"].crossed
    assert len(found["icmp errors"].refused) == 10


def test_connections_that_share_their_segments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NAT that gives one flow a new port each time: every connection has the segments of all at host a."""
    monkeypatch.setattr(bounds, "MOST_MEMBERS", 1000)
    story = Story()
    for number in range(40):
        outside = f"11.0.1.2:{50000 + number}"
        story.tcp(100 * number, "S", number, source=("192.168.1.2:41000", outside, outside))
    exchange = Exchange(story.frames, PAIR)
    with pytest.raises(ExcessiveError, match="the connections have more than 1000 segments"):
        delivery(exchange, WAYS)


class Flooded:
    """A source of frames to which more come whenever it is asked."""

    def __init__(self, *, excessive: bool = False) -> None:
        self.excessive = excessive
        # SYNs of connections that no FIN ends.
        self._frames = [frame for frame in flood("connections with an edge", 400) if frame.data[47] in (0x02, 0x12)]
        self.asked = 0

    def so_far(self) -> tuple[Frame, ...]:
        self.asked += 1
        assert self.asked <= 100, "it is analysed again and again"
        return tuple(self._frames[: 1600 + self.asked])

    def wait_for_more(self, _count: int, _timeout_s: float) -> bool:
        return True


def test_frames_that_keep_coming_do_not_keep_the_trial_from_ending() -> None:
    source = Flooded()
    assert evidence.settled(source, PAIR, WAYS, 0) is not None
    assert source.asked == 1


@pytest.mark.parametrize("beyond", ["recording", "frames", "members"])
def test_too_many_packets_are_not_analysed(beyond: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Flooded(excessive=beyond == "recording")
    frames = tuple(flood("equal connections", 50))
    if beyond == "frames":
        monkeypatch.setattr(bounds, "MOST_FRAMES", len(frames) - 1)
    if beyond == "members":
        monkeypatch.setattr(bounds, "MOST_MEMBERS", 399)
    found = evidence.examine(Recording(frames, (), excessive=source.excessive), None, PAIR, WAYS, 128 << 20)
    assert found.excess is not None
    assert (len(found.exchange.frames), len(found.exchange.segments)) == (0, 0)
    assert (found.delivery.direct_bytes, found.delivery.connected) == (0, False)
    if beyond == "recording":
        assert evidence.settled(source, PAIR, WAYS, 1) is None
        assert source.asked == 0


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ("MOST_FRAMES", "more than 10 frames that open, close or refuse connections, at all interfaces"),
        ("MOST_MEMBERS", "the connections have more than 10 segments"),
    ],
)
def test_a_client_that_sends_more_than_is_analysed_breaks(
    bound: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, bound, 10)
    cell = Cell("ab", AB, ("a", "b"), ("full_cone", "full_cone"), options=TrialOptions(file_size=1))
    record = run_job(Job(cell, 1, "auto", 0)).record
    assert (record["outcome"], record["agrees"], record["connected"]) == ("client_error", None, False)
    assert record["reason"] == f"client punch: the packets exceed the limits of the analysis: {reason}"
    assert record["exchange"]["syns"] == 0
