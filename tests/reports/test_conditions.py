"""Trials under different conditions in one report: kept apart, and compared."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.reports.pages import page, svg_words, write
from tests.reports.sample import lab_error, matrix, record


def test_conditions_are_never_pooled(tmp_path: Path) -> None:
    reset = {
        "unsolicited": "reset",
        "outcome": "refused",
        "outcome_prediction": record("symmetric", "symmetric")["outcome_prediction"],
    }
    records = [record(number=number) for number in range(5)]
    records += [record(number=number, **reset) for number in range(5)]
    records += [record(number=number, topology="cd") for number in range(5)]
    shown = page(write(tmp_path, records))
    labels = [row[:2] for row in shown.rows if row[0].startswith(("ab", "cd"))]
    assert labels == [
        ["ab · unsolicited drop", "5/5"],
        ["ab · unsolicited reset", "0/5"],
        ["cd · unsolicited drop", "5/5"],
    ]
    assert {"success-ab-unsolicited-drop.svg", "success-ab-unsolicited-reset.svg"} <= {
        path.name for path in (tmp_path / "charts").iterdir()
    }


def test_topologies_are_compared_over_the_pairs_they_share(tmp_path: Path) -> None:
    easy, hard = matrix("ab", nats=("none", "full_cone")), matrix("ab", nats=("symmetric",))
    write(tmp_path, easy + hard + matrix("cd", nats=("none", "full_cone")))
    assert svg_words(tmp_path, "comparison-success").count("20/20") == 2
    assert "over 4 NAT pairs" in "\n".join(svg_words(tmp_path, "comparison-success"))


def test_nothing_shared_is_said_and_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, [record(topology="ab"), record("none", "none", topology="cd")])
    assert "nothing to compare" in page(tmp_path).text
    assert not list((tmp_path / "charts").glob("comparison*"))


def test_every_combination_of_the_other_axes_has_a_matrix_of_its_own(tmp_path: Path) -> None:
    axes = [(delay, strategy, bw) for delay in (0.0, 0.02, 0.05) for strategy in ("reuse", "keep") for bw in (None, 10)]
    records = []
    for delay_s, strategy, bw in axes:
        trials = matrix(trials=1, nats=("none", "symmetric"), delay_s=delay_s, strategy=strategy, bw_mbit_s=bw)
        records += [trial | {"id": f"{trial['id']}-{delay_s}-{bw}"} for trial in trials]
    shown = page(write(tmp_path, records))
    assert len(list((tmp_path / "charts").glob("success-*.png"))) == len(axes) == 12
    totals = [row[:2] for row in shown.rows if row[0].startswith("ab · strategy")]
    assert ["ab · strategy keep · delay 20 ms one way · 10 Mbit/s", "3/4"] in totals
    assert ["ab · strategy reuse · delay 0 ms one way · bandwidth unlimited", "3/4"] in totals
    # Twelve colours would tell nobody anything: a row each.
    with Image.open(tmp_path / "charts" / "comparison-success.png") as picture:
        assert picture.height > picture.width


def test_a_trial_broken_before_its_delay_was_known_stays_with_its_run(tmp_path: Path) -> None:
    broken = lab_error(number=1)
    assert "delay_s" not in broken
    write(tmp_path, [record(), broken])
    assert "| full_cone | 1/1 ● (+1 lab error) |" in (tmp_path / "summary.md").read_text()
