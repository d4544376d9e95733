"""Which files a report is made of, and of which runs."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from punchlab import reports
from punchlab.lab.errors import InputError
from tests.reports.pages import page
from tests.reports.sample import lab_error, matrix, record, write_run


def test_says_where_every_file_is(tmp_path: Path) -> None:
    paths = reports.write(write_run(tmp_path, matrix(trials=1)))
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    found = {paths.page, paths.summary, paths.table, paths.parquet, *paths.charts}
    assert written == found | {tmp_path / "results.jsonl"}
    assert {path.name for path in (paths.page, paths.summary, paths.table)} == {
        *("index.html", "summary.md", "results.csv")
    }


def test_a_killed_run_is_said_to_be_truncated(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"schema": 1, "id": "ab-')
    reports.write(tmp_path)
    assert "is truncated (a killed run)" in page(tmp_path).text
    assert "is truncated (a killed run)" in (tmp_path / "summary.md").read_text()


def test_the_same_results_give_the_same_bytes(two_topologies: Path, tmp_path: Path) -> None:
    records = matrix("ab") + matrix("cd")
    random.Random(7).shuffle(records)
    write_run(tmp_path, records, {"trials": 5})
    code = "from punchlab import reports; import pathlib, sys; reports.write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={"PYTHONPATH": ":".join(sys.path)})
    for path in sorted(two_topologies.rglob("*")):
        if path.is_file() and path.name != "results.jsonl":
            assert (tmp_path / path.relative_to(two_topologies)).read_bytes() == path.read_bytes(), path.name


def test_matplotlib_is_imported_late_and_left_as_it_was(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    code = """
import json, pathlib, sys
from punchlab import reports
early = "matplotlib" in sys.modules
import matplotlib
settings = [name for name in matplotlib.rcParams if name != "backend"]  # to read that one is to import pyplot
before = [matplotlib.rcParams[name] for name in settings]
reports.write(pathlib.Path(sys.argv[1]))
pyplot = "matplotlib.pyplot" in sys.modules
print(json.dumps([early, pyplot, before == [matplotlib.rcParams[name] for name in settings]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [False, False, True]


def test_a_refused_run_gets_no_report(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(InputError):
        reports.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_several_runs_make_one_report(tmp_path: Path) -> None:
    near = write_run(tmp_path / "near", matrix("ab", trials=1), {"topology": "ab"})
    far = write_run(tmp_path / "far", [*matrix("cd", trials=1), lab_error(topology="cd", number=9)], {"topology": "cd"})
    paths = reports.write(near, far, out=tmp_path / "new" / "report")
    assert paths.page == tmp_path / "new" / "report" / "index.html"
    assert [path.name for path in near.iterdir() if path.name not in {"results.jsonl", "run.json"}] == []
    shown = page(paths.page.parent)
    assert [row[:2] for row in shown.rows if row[0] in {"ab", "cd"}] == [["ab", "22/25"], ["cd", "22/25"]]
    assert ["topology", "ab", "cd"] in shown.rows
    assert "far: cd-full_cone-full_cone-drop-reuse-009" in shown.text
    with paths.table.open(newline="") as file:
        assert {(row["run"], row["topology"]) for row in csv.DictReader(file)} == {("near", "ab"), ("far", "cd")}


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with pytest.raises(InputError, match="every run once"):
        reports.write(tmp_path, tmp_path / ".")


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with pytest.raises(InputError, match=r"out: .*can be written"):
        reports.write(tmp_path, out=tmp_path / "results.jsonl")
