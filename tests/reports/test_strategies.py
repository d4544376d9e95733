"""Strategies side by side in a report."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from punchlab import reports
from punchlab.reports.groups import group_trials
from punchlab.reports.results import TIMES, read_run
from punchlab.reports.strategy_comparison import CHOOSER, compare, settings_of, verdict
from tests.reports.pages import Page
from tests.reports.sample import Record, record, write_run

NATS = ("port_restricted_cone", "symmetric")


def trials(direct: Mapping[str, int], n: int = 20, **changes: Any) -> list[Record]:
    """So many direct trials of each strategy, of `n`."""
    return [
        record(*NATS, number, strategy=strategy, **changes)
        | {"outcome": "direct" if number < k else "punch_timeout", "outcome_prediction": None, "agrees": None}
        for strategy, k in direct.items()
        for number in range(n)
    ]


def written(folder: Path, *some: list[Record]) -> Path:
    records = [each for every in some for each in every]
    for number, each in enumerate(records):
        each["id"] = f"{each['id']}-{number}"
    return write_run(folder, records)


@pytest.mark.parametrize(
    ("chooser", "best", "worse"),
    [(20, 20, False), (16, 20, False), (8, 20, True), (0, 20, True), (20, 0, False), (0, 0, False)],
)
def test_auto_is_held_against_every_strategy(tmp_path: Path, chooser: int, best: int, worse: bool) -> None:
    run = read_run(written(tmp_path / "run", trials({"auto": chooser, "reuse": 0, "birthday": best})))
    comparisons = compare(settings_of(group_trials(run.trials)))
    assert [each.strategy for each in comparisons] == ["reuse", "birthday"]
    assert any(each.rejected for each in comparisons) is worse
    said = verdict(comparisons) or ""
    assert said.startswith("auto is worse" if worse else "auto is nowhere worse")
    assert "1 cells, 2 comparisons" in said
    if worse:
        assert f"port_restricted_cone {TIMES} symmetric (ab): {chooser}/20, birthday {best}/20" in said


def test_many_comparisons_make_one_unlikely_cell_no_finding(tmp_path: Path) -> None:
    """14 of 20 and 20 of 20: p = 0.01, which is rejected as the only comparison, and not as one of many."""
    unlucky = trials({"auto": 13, "reuse": 20})
    alone = read_run(written(tmp_path / "alone", unlucky))
    assert [each.rejected for each in compare(settings_of(group_trials(alone.trials)))] == [True]
    others = [trials({"auto": 20, "reuse": 20}, delay_s=delay / 1000) for delay in range(30, 40)]
    among = read_run(written(tmp_path / "among", unlucky, *others))
    assert not any(each.rejected for each in compare(settings_of(group_trials(among.trials))))


def test_without_auto_there_is_a_picture_and_no_verdict(tmp_path: Path) -> None:
    run = read_run(written(tmp_path / "run", trials({"reuse": 3, "keep": 20})))
    (setting,) = settings_of(group_trials(run.trials))
    assert setting.strategies == ["reuse", "keep"]
    assert verdict(compare([setting])) is None
    paths = reports.write(tmp_path / "run")
    page = Page(paths.page.read_text())
    assert ["port_restricted_cone", "symmetric", "3/20", "20/20"] in page.rows
    assert CHOOSER not in page.text


def test_the_report_has_a_picture_per_condition_and_one_of_all(tmp_path: Path) -> None:
    conditions = [("drop", 0.0), ("drop", 0.02), ("reset", 0.02)]
    run = [
        trials({"auto": 20, "reuse": 0}, unsolicited=answer, delay_s=delay_s, n=20) for answer, delay_s in conditions
    ]
    paths = reports.write(written(tmp_path / "run", *run))
    names = {path.name for path in paths.charts if path.name.startswith("strategies") and path.suffix == ".png"}
    assert len(names) == 4
    picture = next(path for path in paths.charts if path.name == "strategies.png")
    with Image.open(BytesIO(picture.read_bytes())) as image:
        assert image.width > 800
    page = Page(paths.page.read_text())
    assert any(alt.endswith("over 3 conditions: auto 60/60, reuse 0/60.") for alt in page.alts)
    assert "auto is nowhere worse than the best strategy: 3 cells, 3 comparisons" in page.text
    summary = paths.summary.read_text()
    assert "**auto is nowhere worse than the best strategy: 3 cells" in summary
    assert "| ab · unsolicited reset · delay 20 ms one way | 20/20 | 0/20 |" in summary


def test_a_run_of_one_strategy_says_nothing_of_strategies(tmp_path: Path) -> None:
    paths = reports.write(written(tmp_path / "run", trials({"auto": 20})))
    assert not [path for path in paths.charts if "strategies" in path.name]
    assert "### Strategies" not in paths.summary.read_text()
