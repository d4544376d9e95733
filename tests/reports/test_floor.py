"""The least possible time, and the latencies that it bounds: of the same trials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from punchlab.reports.groups import Trials, group_trials
from punchlab.reports.results import read_run
from tests.reports.pages import page, write
from tests.reports.sample import Record, record, write_run


def trial(number: int, floor_s: float | None, connected_s: float | None, pressure: float = 0.1, **more: Any) -> Record:
    timings = {"rendezvous": 0.1, "connected": connected_s, "agreed": connected_s and connected_s + 0.02}
    prediction = {"outcome": "direct", "probability": 1.0, "reason": "so", "floor_s": floor_s}
    return record(number=number, timings_s=timings, outcome_prediction=prediction, cpu_pressure=pressure, **more)


DISTURBED = [trial(number, 0.2, 0.5, pressure=0.9) for number in range(10, 15)]
CALM = [trial(number, 0.04, 0.045) for number in range(3)]


def test_the_floor_leaves_out_disturbed_trials_as_the_latencies_do(tmp_path: Path) -> None:
    write(tmp_path, CALM + DISTURBED)
    row = page(tmp_path).pair("full_cone", "full_cone")
    assert row[6:8] == ["45.0 ms", "40.0 ms"]
    overview = next(row for row in page(tmp_path).rows if row[:2] == ["ab", "8/8"])
    assert overview[-2:] == ["45.0 ms", "40.0 ms"]


def test_no_floor_is_drawn_above_a_latency_when_the_start_skew_varies(tmp_path: Path) -> None:
    skewed = [trial(number, floor_s, floor_s + 0.001) for number, floor_s in enumerate((0.04, 0.06, 0.08))]
    (group,) = group_trials(read_run(write_run(tmp_path, skewed)).trials)
    assert group.floor_s == 0.04
    assert group.floor_s <= group.timings("connected")[0]


@pytest.mark.parametrize("trials", [DISTURBED, [trial(1, 0.2, None)], [trial(1, None, 0.045), trial(2, 0.2, 0.25)]])
def test_without_a_floor_of_every_timed_trial_there_is_none(tmp_path: Path, trials: list[Record]) -> None:
    assert Trials(read_run(write_run(tmp_path, trials)).trials).floor_s is None
    write(tmp_path, trials)
    assert "\N{EN DASH}" in page(tmp_path).pair("full_cone", "full_cone")[7]


def test_a_comparison_draws_the_floor_of_what_it_shows(tmp_path: Path) -> None:
    far = [trial(number, 0.2, 0.21, topology="cd") for number in range(3)]
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    write(calm, CALM + far)
    write(disturbed, CALM + far + DISTURBED)

    def stroke(folder: Path) -> list[str]:
        svg = (folder / "charts" / "comparison-latency.svg").read_text()
        return re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: #111111', svg)

    assert stroke(calm)
    assert stroke(calm) == stroke(disturbed)
