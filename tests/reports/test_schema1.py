"""Two runs that punchlab stored with schema 1 give the report that they gave then."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from punchlab import reports
from tests.reports.pages import Page

STORED = Path(__file__).parent / "schema1"
RENAMED = {
    **{f"prediction.{name}": f"outcome_prediction.{name}" for name in ("outcome", "probability", "reason", "floor_s")},
    "prediction.agreed_floor_s": "outcome_prediction.agreed_floor_s",
    **{f"attempts.{host}": f"srflx_attempts.{host}" for host in "abxy"},
}

REWORDED = {
    "Lab errors are no measurement and are": "Lab errors are not measurements and are",
    "on a calm machine": "on an idle machine",
    "then the oracle's word:": "then the prediction:",
    "in the others tasks": "in the others, tasks",
    "Run with --jobs 1 on a machine that has nothing else to do.": "Use --jobs 1 on an idle machine.",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> reports.ReportPaths:
    return reports.write(STORED / "near", STORED / "carrier", out=tmp_path_factory.mktemp("report"))


def new_name(column: str) -> str:
    prefix = "control." if column.startswith("control.") else ""
    name = column.removeprefix(prefix)
    return prefix + RENAMED.get(name, name)


def test_the_runs_are_of_schema_1() -> None:
    lines = [line for file in STORED.glob("*/results.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == 20
    assert {json.loads(line)["schema"] for line in lines} == {1}


def reworded(text: str) -> str:
    """The stored text with the words of today."""
    for before, now in REWORDED.items():
        text = text.replace(before, now)
    return text


def test_the_summary_is_the_same(written: reports.ReportPaths) -> None:
    assert written.summary.read_text() == reworded((STORED / "expected" / "summary.md").read_text())


def test_the_table_is_the_same_but_for_the_names_of_columns(written: reports.ReportPaths) -> None:
    def rows(file: Path) -> list[dict[str, str]]:
        with file.open(newline="") as opened:
            return [{new_name(name): cell for name, cell in row.items()} for row in csv.DictReader(opened)]

    found, before = rows(written.table), rows(STORED / "expected" / "results.csv")
    for row in found:
        assert row.pop("cpu_starved") == str(float(row["cpu_pressure"]) > 0.25).lower()
    assert found == before


def test_the_page_is_the_same(written: reports.ReportPaths) -> None:
    def shown(file: Path) -> tuple[list[list[str]], list[str], str]:
        page = Page(re.sub(r'<section id="reading">.*?</section>', "", reworded(file.read_text()), flags=re.DOTALL))
        rows = [[re.sub(r"\s+", " ", cell) for cell in row] for row in page.rows]
        return rows, page.alts, re.sub(r"\s+", "", page.text)

    assert shown(written.page) == shown(STORED / "expected" / "index.html")
