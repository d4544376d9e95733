from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from punchlab.lab.errors import InputError
from punchlab.reports.results import read_run
from tests.reports.sample import lab_error, record, write_run


def test_reads_what_a_run_writes(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [record("none", "symmetric"), lab_error(number=1)], {"trials": 1}))
    direct, broken = run.trials
    assert (direct.nat_a, direct.nat_b, direct.outcome, direct.pair) == ("none", "symmetric", "direct", ("a", "b"))
    assert direct.timing("connected") is not None
    assert direct.outcome_prediction is not None
    assert direct.outcome_prediction.floor_s == 0.04
    assert broken.lab_error
    assert broken.timing("connected") is None
    assert run.parameters == {"trials": 1}
    assert not run.truncated


def test_unknown_and_missing_nullable_fields_are_accepted(tmp_path: Path) -> None:
    least = {key: record()[key] for key in ("schema", "id", "topology", "pair", "nat_a", "nat_b", "outcome")}
    (trial,) = read_run(write_run(tmp_path, [least | {"weather": "fine"}])).trials
    assert trial.strategy is None
    assert trial.outcome_prediction is None


@pytest.mark.parametrize("end", [1, 40, -1])
def test_a_last_line_cut_off_by_a_kill_is_left_out(tmp_path: Path, end: int) -> None:
    write_run(tmp_path, [record(number=0)])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(json.dumps(record(number=1))[:end])
    run = read_run(tmp_path)
    assert [trial.id for trial in run.trials] == ["ab-full_cone-full_cone-drop-reuse-000"]
    assert run.truncated


def test_a_last_line_cut_off_inside_a_character_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, [record()])
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write('{"schema": 2, "reason": "é'.encode()[:-1])
    assert read_run(tmp_path).truncated


def test_a_complete_last_line_needs_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(record()))
    run = read_run(tmp_path)
    assert len(run.trials) == 1
    assert not run.truncated


@pytest.mark.parametrize("bad", ["{", "[1]", "", '{"schema": NaN}', "[" * 100_000, "\udcff"])
def test_any_other_malformed_line_is_named(tmp_path: Path, bad: str) -> None:
    lines = [json.dumps(record(number=0)), bad, json.dumps(record(number=1))]
    (tmp_path / "results.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape") + b"\n")
    with pytest.raises(InputError, match=r"results\.jsonl:2: .*expected one JSON object"):
        read_run(tmp_path)


def test_a_malformed_last_line_that_was_ended_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(record()) + '\n{"schema": 2\n')
    with pytest.raises(InputError, match=r"results\.jsonl:2"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 3),
        ("id", None),
        ("id", 7),
        ("topology", ""),
        ("pair", ["a"]),
        ("pair", "ab"),
        ("nat_a", ["none"]),
        ("outcome", "splendid"),
        ("outcome", ["direct"]),
        ("agrees", "yes"),
        ("deadline_s", "5"),
        ("deadline_s", True),
        ("delay_s", -0.1),
        ("loss", 1.5),
        ("max_attempts", 1.5),
        ("timings_s", [0.1]),
        ("outcome_prediction", "direct"),
        ("versions", {"kernel": 6}),
    ],
)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, field: str, value: Any) -> None:
    write_run(tmp_path, [record(number=0), record(number=1) | {field: value}])
    with pytest.raises(InputError, match=rf"results\.jsonl:2: {field}"):
        read_run(tmp_path)


@pytest.mark.parametrize("number", ["1e999", "-1", "1" + "0" * 400, '"0.1"', "true"])
def test_a_time_that_is_no_time_is_named(tmp_path: Path, number: str) -> None:
    line = json.dumps(record(timings_s={"connected": "HERE"})).replace('"HERE"', number)
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"results\.jsonl:1: timings_s: connected"):
        read_run(tmp_path)


def test_a_measurement_may_not_be_counted_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.jsonl:2: id"):
        read_run(write_run(tmp_path, [record(), record()]))


def test_a_trial_may_be_repeated_after_a_lab_error(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [lab_error(), record(), record(number=1)]))
    assert [trial.outcome for trial in run.trials] == ["lab_error", "direct", "direct"]


@pytest.mark.parametrize("content", [None, "", '{"schema": 2, "id'])
def test_a_folder_without_results_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(InputError, match="run directory") as caught:
        read_run(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_malformed_parameters_are_named(tmp_path: Path, content: str) -> None:
    write_run(tmp_path, [record()])
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        read_run(tmp_path)
