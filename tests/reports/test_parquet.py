from __future__ import annotations

import csv
import os
import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from punchlab.lab.errors import InputError
from punchlab.reports import parquet
from punchlab.reports.results import RunTrial, read_run
from punchlab.reports.table import rows, table_csv
from tests.commands import ROOT
from tests.reports.sample import Record, lab_error, record, write_run


def trials(folder: Path, *records: Record) -> list[RunTrial]:
    return list(read_run(write_run(folder, records)).trials)


def table(found: list[RunTrial]) -> Any:
    return pyarrow.parquet.read_table(BytesIO(parquet.table_parquet(rows(found))))


def test_it_says_what_the_csv_says_in_the_same_columns(tmp_path: Path) -> None:
    found = trials(tmp_path, record(number=1), record(number=0, strategy="keep"), lab_error(number=2))
    cells = list(csv.DictReader(StringIO(table_csv(rows(found)))))
    read = table(found)
    assert read.column_names == list(cells[0])
    assert read["id"].to_pylist() == [row["id"] for row in cells]
    assert read["timings_s.connected"].to_pylist()[:2] == [float(row["timings_s.connected"]) for row in cells[:2]]
    assert read["outcome_prediction.outcome"].to_pylist() == ["direct", "direct", None]
    assert read["path.nats"].to_pylist() == [["nat_a", "nat_b"], ["nat_a", "nat_b"], None]


def test_a_field_that_nobody_knows_has_the_type_of_what_is_in_it(tmp_path: Path) -> None:
    weather = {"wind": 3, "rain": True, "warm": 1.5, "clouds": ["cirrus"], "mixed": 1}
    more = {"wind": 4, "warm": 2, "mixed": "one"}
    read = table(trials(tmp_path, record(weather=weather), record(number=1, weather=more)))
    types = {field.name: str(field.type) for field in read.schema}
    assert types["weather.wind"] == "int64"
    assert types["weather.rain"] == "bool"
    assert types["weather.warm"] == "double"
    assert types["weather.clouds"].startswith("list")
    assert read["weather.mixed"].to_pylist() == ["1", "one"]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    found = trials(tmp_path, record(), record(number=1))
    assert parquet.table_parquet(rows(found)) == parquet.table_parquet(rows(found[::-1]))


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("started", "yesterday", "results: 'started'"),
        ("exchange", {"syns": "four"}, r"results.jsonl:1: exchange: syns: 'four' cannot be used; expected a whole"),
        ("seed", 2**64, "results.jsonl:1: seed: 18446744073709551616 cannot"),
        ("seed", 1.5, "results.jsonl:1: seed: 1.5 cannot be used; expected a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, field: str, value: Any, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        parquet.table_parquet(rows(trials(tmp_path, record(**{field: value}))))
    assert "\n" not in str(caught.value)


def test_without_pyarrow_there_is_a_report_without_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record()])
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "punchlab.lab.cli", "report", str(run)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'punchlab[parquet]'" in done.stdout
    assert (run / "results.csv").exists()
    assert not (run / parquet.NAME).exists()
