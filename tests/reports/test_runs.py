"""Several run folders in one report: distinguished where they have a pair of NATs in common."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from punchlab import reports
from punchlab.lab.errors import InputError
from tests.reports.pages import page, svg_words
from tests.reports.sample import Record, matrix, record, write_run


def failing(number: int, **changes: Any) -> Record:
    made = record(number=number, outcome="punch_timeout", agrees=None, outcome_prediction=None, **changes)
    return made | {"timings_s": {}, "control": None}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """4 of 4, and 0 of 4, of one cell."""
    good = write_run(tmp_path / "v1", [record(number=number) for number in range(4)], {"trials": 4})
    return good, write_run(tmp_path / "v2", [failing(number) for number in range(4)], {"trials": 4})


def test_two_runs_of_one_cell_are_never_pooled(two: tuple[Path, Path], tmp_path: Path) -> None:
    paths = reports.write(*two, out=tmp_path / "out")
    shown = page(tmp_path / "out")
    assert [row[:2] for row in shown.rows if row[0].startswith("ab")] == [
        ["ab · run v1", "4/4"],
        ["ab · run v2", "0/4"],
    ]
    text = shown.text + paths.summary.read_text() + "".join(shown.alts)
    assert "4/8" not in text
    assert "**run v1: 4 trials measured: 4 direct**" in paths.summary.read_text()
    assert "**run v2: 4 trials measured: 0 direct**" in paths.summary.read_text()
    assert {path.name for path in paths.charts} >= {"success-ab-run-v1.svg", "success-ab-run-v2.svg"}
    for name in ("outcomes", "comparison-success"):
        words = " ".join(svg_words(tmp_path / "out", name))
        assert "run v1" in words
        assert "run v2" in words


def test_the_tables_name_the_run_of_each_trial(two: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = two
    write_run(good, [record(number=number, run="mine") for number in range(4)])  # a field of that name is no obstacle
    paths = reports.write(good, bad, out=tmp_path / "out")
    with paths.table.open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["v1"] * 4 + ["v2"] * 4
    assert paths.parquet is not None
    assert pyarrow.parquet.read_table(paths.parquet)["run"].to_pylist() == ["v1"] * 4 + ["v2"] * 4


def test_strategies_are_compared_within_a_run(tmp_path: Path) -> None:
    def run(name: str, direct: int) -> Path:
        trials = [record(number=n, strategy="auto") for n in range(direct)]
        trials += [failing(n, strategy="auto") for n in range(direct, 20)]
        trials += [record(number=n, strategy="reuse") for n in range(20)]
        return write_run(tmp_path / name, trials)

    paths = reports.write(run("old", 20), run("new", 0), out=tmp_path / "out")
    summary = paths.summary.read_text()
    assert "auto is worse than another strategy in 1 of 2 cells" in summary
    assert "| ab · run new | 0/20 | 20/20 |" in summary
    assert "| ab · run old | 20/20 | 20/20 |" in summary
    alt = next(each for each in page(tmp_path / "out").alts if "over 2 conditions" in each)
    assert "run new: auto 0/20, reuse 20/20" in alt
    assert "run old: auto 20/20, reuse 20/20" in alt


def test_runs_without_a_common_cell_make_one_picture(tmp_path: Path) -> None:
    near = write_run(tmp_path / "near", matrix("ab", nats=("none", "full_cone"), trials=1))
    rest = write_run(tmp_path / "rest", matrix("ab", nats=("symmetric",), trials=1))
    paths = reports.write(near, rest, out=tmp_path / "out")
    assert ["ab", "4/5"] in [row[:2] for row in page(tmp_path / "out").rows]
    assert "run near" not in paths.summary.read_text()


def test_a_lab_error_of_the_other_run_stays_with_its_run(two: tuple[Path, Path], tmp_path: Path) -> None:
    good, _bad = two
    broken = {name: value for name, value in record().items() if name not in ("delay_s", "jitter_s", "loss")}
    bad = write_run(tmp_path / "v3", [broken | {"outcome": "lab_error", "agrees": None}])
    paths = reports.write(good, bad, out=tmp_path / "out")
    assert "| full_cone | 4/4 ● |" in paths.summary.read_text()
    assert "(+1 lab error)" in paths.summary.read_text().split("### ab · run v3")[1]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("x/run", "y/run"), ["x/run", "y/run"]),
        (("x/run", "y/run", "z"), ["x/run", "y/run", "z"]),
        (("a/x/run", "b/x/run", "x/run"), ["a/x/run", "b/x/run", None]),
    ],
)
def test_folders_of_one_name_have_the_shortest_path_that_tells_them_apart(
    tmp_path: Path, folders: tuple[str, ...], labels: list[str | None]
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        write_run(tmp_path / folder, [record()])
    paths = reports.write(*(tmp_path / folder for folder in folders), out=tmp_path / "out")
    with paths.table.open(newline="") as file:
        found = {row["run"] for row in csv.DictReader(file)}
    assert found == {label or f"{tmp_path.name}/{folder}" for label, folder in zip(labels, folders, strict=True)}


@pytest.mark.parametrize("how", ["twice", "dot", "symlink", "linked results", "results file"])
def test_one_run_given_twice_is_one_clear_error(tmp_path: Path, how: str) -> None:
    run = write_run(tmp_path / "run", [record()])
    other = tmp_path / "other"
    match how:
        case "twice":
            other = run
        case "dot":
            other = run / ".." / "run"
        case "symlink":
            other.symlink_to(run)
        case "linked results":
            other.mkdir()
            os.link(run / "results.jsonl", other / "results.jsonl")
        case "results file":
            other = run / "results.jsonl"
    with pytest.raises(InputError, match=r"^run directory: .*expected (every run once|a directory with)"):
        reports.write(run, other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_records_of_before_and_after_the_new_fields_are_read(tmp_path: Path) -> None:
    new = record(number=1, connected=True, transferred=False, outcome="direct", control=None)
    half = record(
        number=2, control={"direct": None, "skew_s": None, "outcome_prediction": None}, outcome_prediction=None
    )
    paths = reports.write(write_run(tmp_path, [record(), new, half]))
    with paths.table.open(newline="") as file:
        found = [(row["connected"], row["transferred"], row["control.direct"]) for row in csv.DictReader(file)]
    assert found == [("", "", "true"), ("true", "false", ""), ("", "", "")]
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[1])["control"] is None
