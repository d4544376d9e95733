"""The page of a report: measurements and predictions."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reports.pages import DASH, Page, disagreeing, page, write
from tests.reports.sample import lab_error, record


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
