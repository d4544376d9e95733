"""Run folders with any content give a report, a resumed run, or one clear error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from punchlab import reports
from punchlab.lab.campaign import Campaign, Cell
from punchlab.lab.campaign.plan import Plan
from punchlab.lab.campaign.results import RunFolder
from punchlab.lab.errors import InputError, PunchlabError
from punchlab.reports import parquet
from punchlab.reports.charts import Charts
from punchlab.reports.charts.figure import Chart
from punchlab.reports.groups import Trials, group_trials
from punchlab.reports.page import index_html
from punchlab.reports.results import read_run
from punchlab.reports.strategy_comparison import compare, settings_of
from punchlab.reports.summary import summary_md
from punchlab.reports.table import rows, table_csv
from punchlab.topologies import AB
from tests.examples import EXAMPLES
from tests.reports.sample import record, write_run

FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
ASKED = {"schema": 1}
NO_CHART = Chart("none", "", "", 1, b"", b"")
CAMPAIGN = Campaign([Cell("ab", AB, ("a", "b"), ("none", "none"))])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["direct", "lab_error", "\ud800", "\0", "1" * 5000, 10**400, "2026-01-01T12:00:00Z", "a-²", "ab-1"]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*record(), "port_mapping", "cgn", "connected", "transferred", "run", "timings_s.connected"])
MUTATIONS = st.lists(st.tuples(FIELDS, JSON | st.just("DELETE")), max_size=3)


def survives(folder: Path) -> None:
    """Everything that reads a run folder, but the drawing of pictures."""
    results = folder / "results.jsonl"
    before = results.read_bytes()
    with contextlib.suppress(PunchlabError):
        trials = read_run(folder, "x").trials
        groups = group_trials(trials)
        compared = settings_of(groups)
        summary_md(groups, (compared, compare(compared)), Trials(trials), []).encode()
        drawn = Charts(NO_CHART, (), None, (NO_CHART,) * len(compared), ((),) * len(groups))
        index_html(groups, (compared, compare(compared)), Trials(trials), drawn, [], []).encode()
        table_csv(rows(trials)).encode()
        parquet.table_parquet(rows(trials))
    assert results.read_bytes() == before
    with contextlib.suppress(PunchlabError):
        continued = RunFolder(folder, ASKED)
        continued.close()
        Plan(CAMPAIGN, continued.records).next()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@FUZZ
@given(content=st.binary(max_size=300), parameters=st.binary(max_size=60))
@example(content=b"[" * 10_000 + b"\n", parameters=b"{}")
@example(content=b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n", parameters=b"{}")
def test_any_bytes(folder: Path, content: bytes, parameters: bytes) -> None:
    (folder / "results.jsonl").write_bytes(content)
    (folder / "run.json").write_bytes(parameters)
    survives(folder)


@FUZZ
@given(values=st.lists(JSON, min_size=1, max_size=3), parameters=JSON)
def test_any_values(folder: Path, values: list[Any], parameters: Any) -> None:
    (folder / "results.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (folder / "run.json").write_text(json.dumps(parameters))
    survives(folder)


@FUZZ
@given(several=st.lists(MUTATIONS, min_size=1, max_size=3))
def test_a_true_record_with_changes(folder: Path, several: list[list[tuple[str, Any]]]) -> None:
    records = []
    for number, mutations in enumerate(several):
        made = record(number=number)
        for field, value in mutations:
            if value == "DELETE":
                made.pop(field, None)
            else:
                made[field] = value
        records.append(made)
    (folder / "run.json").write_text(json.dumps(ASKED))
    (folder / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    survives(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"topology": "x" * 1000},
        {"topology": "../../etc", "nat_a": "$x_1$", "nat_b": "<script>"},
        {"topology": "中文", "nat_a": "日", "reason": "\0\x1b[31m"},
        {"seed": None, "new": {"a": [1, {"b": [2]}]}},
        {"outcome_prediction": {"outcome": "direct", "floor_s": 0}, "timings_s": {"connected": 0.0, "agreed": 1e300}},
    ],
)
def test_a_report_of_strange_records_is_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", [record(number=number, **changes) for number in range(2)])
    paths = reports.write(run, out=tmp_path / "out")
    assert all(path.stat().st_size > 0 for path in (paths.page, paths.summary, paths.table, *paths.charts))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\udcff"', '{"a": ["\\udfff"]}'])
def test_half_a_character_is_named(tmp_path: Path, text: str) -> None:
    line = json.dumps(record() | {"reason": "HERE"}).replace('"HERE"', text)
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"results\.jsonl:1: "):
        read_run(tmp_path)


def test_a_reason_that_is_no_unicode_is_written_and_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", ASKED)
    folder.append(record(reason="caf\udce9"))
    folder.close()
    assert read_run(tmp_path / "run").trials[0].reason == "caf?"
