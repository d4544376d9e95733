"""The folder of a run: one process at a time, complete lines only, and errors for invalid existing files."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from punchlab.lab.campaign.results import RunFolder
from punchlab.lab.errors import InputError, LabError
from tests.commands import punchlab, run

ASKED = {"schema": 1, "topology": "ab"}
RUN = ["run", "ab", "--nat-a", "none", "--nat-b", "none", "--trials", "1"]


def record(identity: str, outcome: str = "direct") -> dict[str, object]:
    return {"id": identity, "nat_a": "none", "nat_b": "none", "outcome": outcome, "reason": None, "agrees": None}


def test_records_are_kept_when_a_run_resumes(tmp_path: Path) -> None:
    for number in range(3):
        folder = RunFolder(tmp_path / "run", ASKED)
        assert [each["id"] for each in folder.records] == [str(each) for each in range(number)]
        folder.append(record(str(number)))
        folder.close()


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, ASKED)
    with pytest.raises(InputError, match="no other run is writing"):
        RunFolder(tmp_path, ASKED)
    first.close()
    RunFolder(tmp_path, ASKED).close()


def test_a_trial_that_the_lab_broke_is_run_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, ASKED)
    folder.append(record("one"))
    folder.append(record("two", "lab_error"))
    folder.close()
    folder = RunFolder(tmp_path, ASKED)
    assert [each["id"] for each in folder.records] == ["one"]
    folder.close()


@pytest.mark.parametrize("text", ["", "[]", "5", "null", '"x"', "[" * 20_000, "{", "\xff"])
def test_an_invalid_run_json_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"run\.json can be read"):
        RunFolder(tmp_path, ASKED)


@pytest.mark.parametrize("line", ["[]", "5", "null", "[" * 20_000, "{", "\xff", "{}", '{"id":5}'])
def test_an_invalid_line_is_bad_input_and_named(tmp_path: Path, line: str) -> None:
    whole = json.dumps(record("one")).encode() + b"\n"
    (tmp_path / "results.jsonl").write_bytes(whole + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"results\.jsonl:2"):
        RunFolder(tmp_path, ASKED)


def test_a_half_line_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(record("one")) + '\n{"id":"tw')
    RunFolder(tmp_path, ASKED).close()
    assert (tmp_path / "results.jsonl").read_text() == json.dumps(record("one")) + "\n"


def test_a_record_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, ASKED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(LabError, match=r"results\.jsonl: File too large"):
            folder.append(record("one"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.records == []
    folder.close()
    RunFolder(tmp_path, ASKED).close()
    assert (tmp_path / "results.jsonl").read_bytes() == b""


def test_a_run_on_a_full_disk_ends_with_one_line_and_resumes_when_there_is_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    out = small / "out"
    steps = (
        f"mount -t tmpfs -o size=16k none {small}; dd if=/dev/zero of={small}/ballast bs=4k count=2 2>/dev/null;"
        f' "$@"; echo "status $?"; rm {small}/ballast; mount -o remount,size=1m {small}; "$@"; echo "status $?";'
        f" cat {out}/results.jsonl"
    )
    done = run(["unshare", "--mount", "sh", "-c", steps, "sh", *punchlab(*RUN, "--out", str(out))])
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 1", "status 0"], done
    assert "Traceback" not in done.stderr
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert outcomes[-1] == "direct"
    assert set(outcomes[:-1]) <= {"lab_error"}
