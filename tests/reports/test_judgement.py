"""Trials and predictions in a report, and trials that cannot be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.reports.pages import DASH, page, svg_words, write
from tests.reports.sample import lab_error, record


def test_disagreements_come_first_and_stand_out(troubled: Path) -> None:
    summary = (troubled / "summary.md").read_text()
    assert summary.index("Disagreements") < summary.index("Totals")
    listed = [line for line in summary.splitlines() if "-symmetric-drop-reuse-000 " in line]
    assert len(listed) == 1
    assert "| direct | refused |" in listed[0]
    assert "NAT b answered the SYN of a with RST" in listed[0]
    assert "| full_cone | 5/5 ● (+3 lab errors) | 4/5 ● ⚠ 1 |" in summary

    shown = page(troubled)
    assert "1 trial disagrees with the oracle" in shown.text
    assert shown.pair("full_cone", "symmetric")[2:6] == ["4/5", f"38{DASH}96 %", "direct", "NO"]
    assert "1 disagrees" in svg_words(troubled, "success-ab")
    assert "#d00000" in (troubled / "charts" / "success-ab.svg").read_text()


def test_a_control_dial_that_disagrees_is_shown(tmp_path: Path) -> None:
    said = record()["outcome_prediction"]
    write(tmp_path, [record(agrees=False, control={"direct": False, "skew_s": 0.0, "outcome_prediction": said})])
    assert "| direct | direct | not direct, predicted direct |" in (tmp_path / "summary.md").read_text()
    assert page(tmp_path).pair("full_cone", "full_cone")[5] == "NO"


def test_without_disagreement_none_is_shown(two_topologies: Path) -> None:
    assert "Disagreements" not in (two_topologies / "summary.md").read_text()
    assert "Every judged trial came out as the oracle predicted" in page(two_topologies).text
    assert "#d00000" not in (two_topologies / "charts" / "success-ab.svg").read_text()


def test_lab_errors_are_reported_but_never_counted(troubled: Path) -> None:
    shown = page(troubled)
    assert shown.pair("full_cone", "full_cone")[2:4] == ["5/5", f"57{DASH}100 %"]
    assert "the capture in node edge did not start within 5 s" in shown.text
    words = svg_words(troubled, "success-ab")
    assert {"5/5", f"57{DASH}100 %", "+3 lab errors", "4/5"} <= set(words)
    summary = (troubled / "summary.md").read_text()
    assert "**10 trials measured: 9 direct** (90 %" in summary
    assert "· 3 lab errors" in summary
    assert "### Lab errors" in summary


def test_a_run_of_lab_errors_alone_is_still_a_report(tmp_path: Path) -> None:
    write(tmp_path, [lab_error()])
    assert "**0 trials measured: 0 direct** ·" in (tmp_path / "summary.md").read_text()
    assert page(tmp_path).pair("full_cone", "full_cone")[2:4] == [DASH, DASH]
    assert "1 lab error\nno result" in "\n".join(svg_words(tmp_path, "success-ab"))


def test_a_prediction_that_depends_shows_its_probability(tmp_path: Path) -> None:
    said = {"outcome": "depends", "probability": 0.25, "reason": "the skew decides", "floor_s": None}
    write(tmp_path, [record(outcome_prediction=said)])
    assert page(tmp_path).pair("full_cone", "full_cone")[4] == "depends, p = 0.25"
    assert "1/1 ◐" in (tmp_path / "summary.md").read_text()


def test_predictions_that_differ_by_trial_are_all_counted(tmp_path: Path) -> None:
    hard = record("symmetric", "symmetric")["outcome_prediction"]
    write(tmp_path, [record(), record(number=1), record(number=2, outcome_prediction=hard, outcome="refused")])
    assert page(tmp_path).pair("full_cone", "full_cone")[4] == "direct 2, fails 1"


@pytest.mark.parametrize("prediction", [None, {"outcome": "depends", "probability": None}])
def test_trials_without_judgement_are_said_to_be_so(tmp_path: Path, prediction: dict[str, Any] | None) -> None:
    write(tmp_path, [record(outcome_prediction=prediction, control=None, agrees=None)])
    shown = page(tmp_path)
    assert shown.pair("full_cone", "full_cone")[5] == "not judged"
    assert "No trial was judged" in shown.text


@pytest.mark.parametrize(("direct", "said"), [(3, "rate fits"), (0, "rate is off")])
def test_where_chance_decides_the_rate_is_judged(tmp_path: Path, direct: int, said: str) -> None:
    prediction = {"outcome": "depends", "probability": 0.5, "reason": "chance", "floor_s": 0.04}
    outcomes = ["direct"] * direct + ["refused"] * (6 - direct)
    write(
        tmp_path,
        [record(number=n, outcome_prediction=prediction, agrees=None, outcome=o) for n, o in enumerate(outcomes)],
    )
    assert page(tmp_path).pair("full_cone", "full_cone")[5] == said
