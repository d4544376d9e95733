"""The summary of a report for a CI job, and its table of trials."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.reports.pages import DASH, disagreeing, write
from tests.reports.sample import record


def test_the_summary_has_a_table_per_topology(two_topologies: Path) -> None:
    summary = (two_topologies / "summary.md").read_text()
    assert f"**250 trials measured: 220 direct** (88 %, Wilson 95 % 83{DASH}91 %)" in summary
    assert f"| ab | 110/125 | 88 % | 81{DASH}93 % | 0 | 0 |" in summary
    assert "direct 110, punch_timeout 15" in summary
    assert "| symmetric | 5/5 ● | 5/5 ● | 5/5 ● | 0/5 ✕ | 0/5 ✕ |" in summary.split("### cd")[1]


def test_the_summary_fits_a_ci_job(tmp_path: Path) -> None:
    records = [disagreeing(number, reason="x" * 200) for number in range(2000)]
    summary = write(tmp_path, records) / "summary.md"
    assert summary.stat().st_size < 1_000_000 / 10
    assert "1,970 more" in summary.read_text()


def test_the_table_has_a_row_per_trial(troubled: Path) -> None:
    with (troubled / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    by_id = {row["id"]: row for row in rows}
    odd = by_id["ab-full_cone-symmetric-drop-reuse-000"]
    assert (odd["outcome"], odd["agrees"], odd["outcome_prediction.outcome"]) == ("refused", "false", "direct")
    assert odd["pair"] == "a;b"
    original = record("full_cone", "symmetric", 1)
    row = by_id[original["id"]]
    assert float(row["timings_s.connected"]) == original["timings_s"]["connected"]
    assert float(row["outcome_prediction.floor_s"]) == 0.04
    assert row["path.nats"] == "nat_a;nat_b"
    assert row["max_attempts"] == ""
    assert row["versions.kernel"] == "6.18.44"


def test_the_table_keeps_fields_it_does_not_know(tmp_path: Path) -> None:
    write(tmp_path, [record(weather={"wind": 3}), record(number=1)])
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["weather.wind"] for row in csv.DictReader(file)] == ["3", ""]
