"""Running campaigns: killed, with a budget, or stopped at a confidence interval; and their result files."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow
import pyarrow.parquet
import pytest

from punchlab.lab.cli import arguments, axes
from punchlab.lab.errors import InputError, SeveralInputsError
from punchlab.lab.results.documents import json_schema
from tests.commands import ROOT, punchlab, run

KILLS = int(os.environ.get("PUNCHLAB_KILLS", "3"))
"""How often a campaign is killed; a greater number makes a longer test."""
TRIALS = max(2, KILLS // 2)
"""Trials per cell: enough that each kill happens before the end."""

DETERMINISTIC = f"""\
topology = "ab"
nat_a = ["none", "symmetric"]
nat_b = ["none", "symmetric"]
delay = ["0ms", "5ms"]
deadline = 0.3
trials = {TRIALS}
seed = 11
"""
PLAIN = ("--nat-a", "none", "--nat-b", "none")


def records(folder: Path) -> list[dict[str, Any]]:
    file = folder / "results.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def outcomes(folder: Path) -> dict[str, str]:
    """Return trial -> outcome; fail the test if a trial has two records."""
    measured = [record for record in records(folder) if record["outcome"] != "lab_error"]
    assert max(Counter(record["id"] for record in measured).values()) == 1
    return {record["id"]: record["outcome"] for record in measured}


def test_a_campaign_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "campaign.toml").write_text(DETERMINISTIC)
    command = punchlab("run", str(tmp_path / "campaign.toml"), "--jobs", "2")
    assert run([*command, "--out", str(tmp_path / "whole")], timeout=300).returncode == 0

    out = tmp_path / "killed"
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        # Sometimes before its first trial, otherwise after its next trials.
        more, delay_s = len(records(out)) + rng.randrange(3), rng.uniform(0, 0.8)
        process = subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(records(out)) < more and process.poll() is None:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        assert process.poll() is None
        process.kill()
        process.wait()
    done = run([*command, "--out", str(out)], timeout=300)
    assert done.returncode == 0, done

    assert outcomes(out) == outcomes(tmp_path / "whole")
    assert len(outcomes(out)) == 2 * 2 * 2 * TRIALS
    seeds = [{record["id"]: record["seed"] for record in records(folder)} for folder in (out, tmp_path / "whole")]
    assert seeds[0] == seeds[1]
    for record in records(out):
        assert record["outcome"] == "lab_error" or (out / record["capture"]).stat().st_size > 0
    assert pyarrow.parquet.read_table(out / "results.parquet").num_rows == len(records(out))


def test_a_budget_runs_the_trials_that_fit_and_a_later_run_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = punchlab("run", "ab", *PLAIN, "--trials", "4", "--jobs", "1", "--out", str(out))
    done = run([*command, "--budget", "0.1s"])
    assert done.returncode == 0, done
    some = outcomes(out)
    assert 0 < len(some) < 4
    assert run(command).returncode == 0
    assert len(outcomes(out)) == 4
    assert some.items() <= outcomes(out).items()


def test_a_cell_stops_when_its_interval_is_narrow_enough(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = punchlab("run", "ab", *PLAIN, "--until-ci", "0.25", "--min-trials", "2", "--out", str(out))
    for _ in range(2):  # the second run has no missing trial
        done = run(command)
        assert done.returncode == 0, done
        # All direct: Wilson's half-width is z²/2(n + z²), which is 0.28 with 3 trials and 0.245 with 4.
        assert [record["outcome"] for record in records(out)] == ["direct"] * 4


def test_a_parquet_file_has_a_typed_column_for_every_field(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(punchlab("run", "ab", *PLAIN, "--trials", "1", "--bw", "10", "--out", str(out)))
    (record,) = records(out)
    jsonschema.validate(record, json_schema())
    table = pyarrow.parquet.read_table(out / "results.parquet")
    (row,) = table.to_pylist()
    assert row["id"] == record["id"]
    assert row["seed"] == record["seed"]
    assert row["started"].isoformat(timespec="milliseconds") == record["started"].replace("Z", "+00:00")
    assert row["pair"] == ["a", "b"]
    assert row["bw_mbit_s"] == 10
    assert row["timings_s.connected"] == record["timings_s"]["connected"]
    assert row["exchange.syns"] == record["exchange"]["syns"]
    types = {field.name: str(field.type) for field in table.schema}
    assert types["started"] == "timestamp[ms, tz=UTC]"
    assert types["max_attempts"] == "int64"  # the column has a type although all values are null
    assert types["skew_wanted_s"] == "double"
    assert types["agrees"] == "bool"
    assert "null" not in types.values()


@pytest.mark.parametrize("budget", ["0s", "10", "fast", "-5m", "1d"])
def test_an_invalid_budget_is_reported_in_one_line(budget: str, tmp_path: Path) -> None:
    done = run(punchlab("run", "ab", f"--budget={budget}"), cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"punchlab: budget: {budget!r} cannot be used; expected a duration")


def test_an_error_of_a_trial_process_keeps_its_message() -> None:
    error = InputError("delay", "20", "a duration")
    for sent in (error, SeveralInputsError([error, error])):
        arrived = pickle.loads(pickle.dumps(sent))
        assert type(arrived) is type(sent)
        assert str(arrived) == str(sent)


def test_the_name_of_a_campaign() -> None:
    assert axes.name(arguments.parse(["run", "ab,cd", "--strategy", "reuse,keep"])) == "ab+cd-reuse+keep"
    assert axes.name(arguments.parse(["run", "some/where.toml"])) == "where"
