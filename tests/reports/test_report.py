from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

import reports
from lab.errors import InputError
from tests.reports.sample import lab_error, matrix, record, write_run

DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """What a reader sees of a page: its table rows and its text, and everything it refers to."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.tags: list[str] = []
        self.references: list[str] = []
        self.alts: list[str] = []
        self._in_cell = self._in_style = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                self.references.append(value or "")
            if name == "alt":
                self.alts.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._in_cell = False
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def pair(self, nat_a: str, nat_b: str) -> list[str]:
        return next(row for row in self.rows if row[:2] == [nat_a, nat_b])


def disagreeing(number: int = 0, **changes: Any) -> dict[str, Any]:
    wrong: dict[str, Any] = {"outcome": "refused", "agrees": False, "reason": "NAT b answered the SYN of a with RST"}
    return record("full_cone", "symmetric", number, **(wrong | changes))


def write(directory: Path, records: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> Path:
    reports.write(write_run(directory, records, parameters))
    return directory


def page(directory: Path) -> Page:
    return Page((directory / "index.html").read_text())


def svg_words(directory: Path, name: str) -> list[str]:
    """matplotlib draws letters as shapes, and writes each text beside them as a comment."""
    return re.findall(r"<!-- (.*?) -->", (directory / "charts" / f"{name}.svg").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def two_topologies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("run"), matrix("ab") + matrix("cd"), {"trials": 5})


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5/5 for one pair beside 3 lab errors; 4/5 for another, the odd one out disagreeing with the oracle."""
    records = [record(number=number) for number in range(5)] + [lab_error(number=number) for number in range(5, 8)]
    records += [disagreeing(), *(record("full_cone", "symmetric", number) for number in range(1, 5))]
    return write(tmp_path_factory.mktemp("run"), records)


def test_says_where_every_file_is(tmp_path: Path) -> None:
    paths = reports.write(write_run(tmp_path, matrix(trials=1)))
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    found = {paths.page, paths.summary, paths.table, paths.parquet, *paths.charts}
    assert written == found | {tmp_path / "results.jsonl"}
    assert {path.name for path in (paths.page, paths.summary, paths.table)} == {
        *("index.html", "summary.md", "results.csv")
    }


def test_the_page_shows_measurement_beside_prediction(two_topologies: Path) -> None:
    shown = page(two_topologies)
    assert shown.pair("none", "full_cone")[2:6] == ["5/5", f"57{DASH}100 %", "direct", "yes"]
    assert shown.pair("symmetric", "port_restricted_cone")[2:6] == ["0/5", f"0{DASH}43 %", "fails", "yes"]
    assert "came to a port that a had not opened" in shown.pair("symmetric", "symmetric")[-1]
    assert ["ab", "110/125", "88 %", f"81{DASH}93 %", "88 %", "0", "0"] in [row[:7] for row in shown.rows]


def test_the_page_shows_latency_beside_its_floor(tmp_path: Path) -> None:
    timed = [
        record(number=number, timings_s={"connected": ms / 1000, "agreed": ms / 500})
        for number, ms in enumerate((41, 43, 99))
    ]
    assert page(write(tmp_path, timed)).pair("full_cone", "full_cone")[6:9] == ["43.0 ms", "40.0 ms", "86.0 ms"]


def test_pairs_go_from_the_friendliest_nat_to_the_hardest(tmp_path: Path) -> None:
    nats = ["zyxel", "symmetric", "none", "asus", "port_restricted_cone", "full_cone", "restricted_cone"]
    shown = page(write(tmp_path, [record(nat, "none") for nat in nats]))
    first = [row[0] for row in shown.rows if row[1:2] == ["none"]]
    expected = ["none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric", "asus", "zyxel"]
    assert first == expected


def test_the_page_needs_nothing_else(two_topologies: Path) -> None:
    source = (two_topologies / "index.html").read_text()
    shown = Page(source)
    assert shown.references
    assert all(reference.startswith(("data:image/svg+xml;base64,", "#")) for reference in shown.references)
    assert not {"script", "link", "iframe", "object", "embed"} & set(shown.tags)
    assert not re.search(r"url\(|@import|https?:", source)
    assert all(shown.alts)
    assert len(shown.alts) == shown.tags.count("img")


def test_text_of_a_record_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | $x_1^$ \\frac"
    records = [disagreeing(reason=evil, topology=f"a/../{evil}"), lab_error(reason=evil, topology=f"a/../{evil}")]
    shown = page(write(tmp_path, records, {"<b>": evil}))
    assert "script" not in shown.tags
    assert evil in shown.text
    summary = (tmp_path / "summary.md").read_text()
    assert "<script>" not in summary
    row = next(line for line in summary.splitlines() if "symmetric-drop" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


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
    said = record()["prediction"]
    write(tmp_path, [record(agrees=False, control={"direct": False, "skew_s": 0.0, "prediction": said})])
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
    assert (odd["outcome"], odd["agrees"], odd["prediction.outcome"]) == ("refused", "false", "direct")
    assert odd["pair"] == "a;b"
    original = record("full_cone", "symmetric", 1)
    row = by_id[original["id"]]
    assert float(row["timings_s.connected"]) == original["timings_s"]["connected"]
    assert float(row["prediction.floor_s"]) == 0.04
    assert row["path.nats"] == "nat_a;nat_b"
    assert row["max_attempts"] == ""
    assert row["versions.kernel"] == "6.18.44"


def test_the_table_keeps_fields_it_does_not_know(tmp_path: Path) -> None:
    write(tmp_path, [record(weather={"wind": 3}), record(number=1)])
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["weather.wind"] for row in csv.DictReader(file)] == ["3", ""]


def test_conditions_are_never_pooled(tmp_path: Path) -> None:
    reset = {"unsolicited": "reset", "outcome": "refused", "prediction": record("symmetric", "symmetric")["prediction"]}
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


def test_many_trials_are_drawn_as_distributions(tmp_path: Path) -> None:
    records = [record(number=number) for number in range(20)] + [record("none", "none", number) for number in range(19)]
    write(tmp_path, records)
    assert "n = 20" in "\n".join(svg_words(tmp_path, "latency-cdf-ab"))
    assert "n = 19" in "\n".join(svg_words(tmp_path, "latency-ab"))
    assert "full_cone" not in "\n".join(svg_words(tmp_path, "latency-ab"))


def test_a_prediction_that_depends_shows_its_probability(tmp_path: Path) -> None:
    said = {"outcome": "depends", "probability": 0.25, "reason": "the skew decides", "floor_s": None}
    write(tmp_path, [record(prediction=said)])
    assert page(tmp_path).pair("full_cone", "full_cone")[4] == "depends, p = 0.25"
    assert "1/1 ◐" in (tmp_path / "summary.md").read_text()


def test_predictions_that_differ_by_trial_are_all_counted(tmp_path: Path) -> None:
    hard = record("symmetric", "symmetric")["prediction"]
    write(tmp_path, [record(), record(number=1), record(number=2, prediction=hard, outcome="refused")])
    assert page(tmp_path).pair("full_cone", "full_cone")[4] == "direct 2, fails 1"


@pytest.mark.parametrize("prediction", [None, {"outcome": "depends", "probability": None}])
def test_trials_without_judgement_are_said_to_be_so(tmp_path: Path, prediction: dict[str, Any] | None) -> None:
    write(tmp_path, [record(prediction=prediction, control=None, agrees=None)])
    shown = page(tmp_path)
    assert shown.pair("full_cone", "full_cone")[5] == "not judged"
    assert "No trial was judged" in shown.text


def test_a_killed_run_is_said_to_be_cut_short(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"schema": 1, "id": "ab-')
    reports.write(tmp_path)
    assert "cut short" in page(tmp_path).text
    assert "cut short" in (tmp_path / "summary.md").read_text()


def test_every_chart_is_a_valid_png_and_svg(two_topologies: Path) -> None:
    charts = sorted(path.name for path in (two_topologies / "charts").iterdir())
    kinds = (
        "comparison-latency",
        "comparison-success",
        "latency-ab",
        "latency-cd",
        "outcomes",
        "success-ab",
        "success-cd",
    )
    assert charts == sorted(f"{kind}.{ending}" for kind in kinds for ending in ("png", "svg"))
    for name in charts:
        content = (two_topologies / "charts" / name).read_bytes()
        if name.endswith(".png"):
            with Image.open(BytesIO(content)) as picture:
                picture.load()
                assert picture.width > 500
                assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
        else:
            root = ElementTree.fromstring(content)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert b"<dc:date>" not in content


def test_the_same_results_give_the_same_bytes(two_topologies: Path, tmp_path: Path) -> None:
    records = matrix("ab") + matrix("cd")
    random.Random(7).shuffle(records)
    write_run(tmp_path, records, {"trials": 5})
    code = "import reports, pathlib, sys; reports.write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={"PYTHONPATH": ":".join(sys.path)})
    for path in sorted(two_topologies.rglob("*")):
        if path.is_file() and path.name != "results.jsonl":
            assert (tmp_path / path.relative_to(two_topologies)).read_bytes() == path.read_bytes(), path.name


def test_matplotlib_is_imported_late_and_left_as_it_was(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    code = """
import json, pathlib, sys
import reports
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


def test_latencies_are_those_of_trials_that_had_cpu_to_spare(tmp_path: Path) -> None:
    pressures = (0.1, 0.9, 0.25, None, 0.26)
    timed = [
        record(number=number, timings_s={"connected": ms / 1000, "agreed": ms / 500}, cpu_pressure=pressure)
        for number, (ms, pressure) in enumerate(zip((41, 99, 42, 43, 98), pressures, strict=True))
    ]
    shown = page(write(tmp_path, timed))
    assert shown.pair("full_cone", "full_cone")[2] == "5/5"
    assert shown.pair("full_cone", "full_cone")[6] == "42.0 ms"
    assert "Latencies are those of 3 of 5 direct trials" in shown.text
    assert "Latencies are those of 3 of 5 direct trials" in (tmp_path / "summary.md").read_text()


def test_where_no_trial_had_cpu_to_spare_there_is_no_latency(tmp_path: Path) -> None:
    shown = page(write(tmp_path, [record(number=number, cpu_pressure=0.9) for number in range(3)]))
    assert shown.pair("full_cone", "full_cone")[6] == DASH
    assert "No direct connection was timed" in shown.text
    assert not list((tmp_path / "charts").glob("latency*"))


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


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with pytest.raises(InputError, match="every run once"):
        reports.write(tmp_path, tmp_path / ".")


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with pytest.raises(InputError, match=r"out: .*can be written"):
        reports.write(tmp_path, out=tmp_path / "results.jsonl")


def test_a_trial_broken_before_its_delay_was_known_stays_with_its_run(tmp_path: Path) -> None:
    broken = lab_error(number=1)
    assert "delay_s" not in broken
    write(tmp_path, [record(), broken])
    assert "| full_cone | 1/1 ● (+1 lab error) |" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("direct", "said"), [(3, "rate fits"), (0, "rate is off")])
def test_where_chance_decides_the_rate_is_judged(tmp_path: Path, direct: int, said: str) -> None:
    prediction = {"outcome": "depends", "probability": 0.5, "reason": "chance", "floor_s": 0.04}
    outcomes = ["direct"] * direct + ["refused"] * (6 - direct)
    write(tmp_path, [record(number=n, prediction=prediction, agrees=None, outcome=o) for n, o in enumerate(outcomes)])
    assert page(tmp_path).pair("full_cone", "full_cone")[5] == said
