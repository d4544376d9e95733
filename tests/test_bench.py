"""The benchmark: what it makes of the records of trials, and that it does not lose what it has measured."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import run as bench_run
from bench.punching import judged
from bench.store import Store
from punchlab.lab.errors import InputError
from punchlab.lab.kernel.mounts import mount, unmount
from tests.commands import HIDE_SANDBOX, line
from tests.scripts import PLAIN, path_of, run, script

DISK_BYTES = 65536


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("tmpfs", str(folder), "tmpfs", options=f"size={DISK_BYTES}")
    yield folder
    unmount(str(folder))


def record(connected_ms: float, floor_ms: float = 40.0, skew_ms: float = 0.0) -> dict[str, Any]:
    return {
        "timings_s": {"known_to_connected": connected_ms / 1000},
        "outcome_prediction": {"floor_s": floor_ms / 1000},
        "skew_s": skew_ms / 1000,
    }


def test_times_are_held_against_the_floor_from_the_later_syn() -> None:
    found = judged([record(44, 40), record(44, 50, skew_ms=-10), record(44, 50, skew_ms=10)], "connected")
    assert (found["n"], found["ratio_median"], found["ratio_p95"]) == (3, pytest.approx(1.1), pytest.approx(1.1))
    assert found["spare_s"] == {"median": pytest.approx(0.007), "p95": pytest.approx(0.026)}
    assert found["within"]


@pytest.mark.parametrize(
    ("slow", "slow_ms", "within"), [(10, 51.5, True), (11, 51.5, False), (1, 70.5, True), (2, 70.5, False)]
)
def test_the_median_and_95_of_100_must_be_within_their_marks(slow: int, slow_ms: float, within: bool) -> None:
    """40 ms may be 51 at the median, and 70 at the 95th percentile."""
    records = [record(slow_ms)] * slow + [record(41)] * (20 - slow)
    assert judged(records, "connected")["within"] is within


def bench(*words: str, under: Sequence[str] = (), env: Mapping[str, str] = PLAIN) -> subprocess.CompletedProcess[str]:
    return run(script("bench", *words, under=under), env=env)


@pytest.mark.parametrize(
    "words",
    [
        ("--only", "builds", "nonsense"),
        ("--only", ""),
        ("--rounds", "0"),
        ("--homes", "10", "x"),
        ("--jobs", "1e9"),
        ("--trials", "9" * 5000),
        ("--strategy", "guess"),
        ("--out", ""),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_word_that_cannot_be_used_is_one_line_and_nothing_is_measured(words: tuple[str, ...], tmp_path: Path) -> None:
    done = bench("--out", str(tmp_path / "out"), *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert words[0] in line
    assert not (tmp_path / "out").exists()


def test_all_programs_that_are_missing_are_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text("{}")
    path = path_of(tmp_path / "bin", ["python3", "ip", "nft", "iptables-restore", "sysctl", "brctl", "ifconfig"])
    done = bench("--out", str(tmp_path), env=PLAIN | {"PATH": path})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "iperf3 (for throughput)" in line
    assert "mnexec (for builds)" in line
    assert "apt-get install util-linux mininet iperf3" in line
    assert (tmp_path / "bench.json").read_text() == "{}"


def test_only_what_the_chosen_parts_need_must_be_there(tmp_path: Path) -> None:
    path = path_of(tmp_path / "bin", ["python3", "ip", "nft", "iptables-restore"])
    done = bench("--only", "memory", "--out", str(tmp_path / "out"), env=PLAIN | {"PATH": path})
    assert done.returncode == 0, done
    assert json.loads((tmp_path / "out/bench.json").read_text())["memory"]["kernel_mb"] > 0


def test_without_privileges_it_is_one_line(tmp_path: Path) -> None:
    deprived = [*HIDE_SANDBOX, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = bench("--only", "memory", "--out", str(tmp_path / "out"), under=deprived)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "root may not make namespaces here" in line


@pytest.mark.parametrize("there", ["[]", "{", '{"parts": []}', '{"parts": {"memory": 1}}', "[" * 100_000])
def test_a_file_that_is_no_benchmark_is_not_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(there)
    done = bench("--only", "memory", "--out", str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "bench.json") in line
    assert (tmp_path / "bench.json").read_text() == there


def test_what_was_measured_before_it_was_killed_is_kept(tmp_path: Path) -> None:
    words = ("--only", "memory", "skew", "--skews", "500", "--out", str(tmp_path))
    command = script("bench", *words, under=HIDE_SANDBOX)
    with subprocess.Popen(command, env=PLAIN, stderr=subprocess.PIPE, text=True) as process:
        line(process.stderr, "[2/2] skew:")
        process.kill()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["parts"]) == ["memory"]
    memory = found["memory"]

    done = bench("--only", "memory", "skew", "--skews", "1", "--out", str(tmp_path), under=HIDE_SANDBOX)
    assert done.returncode == 0, done
    assert "[1/2] memory: kept from" in done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["memory"] == memory
    assert len(found["skew"]["errors_s"]) == 2

    done = bench("--only", "memory", "--again", "--out", str(tmp_path), under=HIDE_SANDBOX)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["memory"] != memory
    assert "skew" in found


def test_the_parts_after_one_that_fails_are_measured(tmp_path: Path) -> None:
    """With one processor two workers cannot be compared with one; and with an iperf3 that fails, nothing with it."""
    path = path_of(tmp_path / "bin", iperf3="echo broken >&2; exit 1")
    env = PLAIN | {"PATH": f"{path}:{PLAIN['PATH']}"}
    words = ("--only", "builds", "machines", "throughput", "--rounds", "1", "--homes", "1", "--out", str(tmp_path))
    one_processor = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    done = bench(*words, under=[*HIDE_SANDBOX, *one_processor], env=env)
    assert done.returncode == 1, done
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["parts"]) == ["builds"]
    assert list(found["failed"]) == ["machines", "throughput"]
    assert "bench: failed: machines: the machine has 1 processor" in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_full_disk_it_is_one_line_and_the_old_results_stay(small_disk: Path) -> None:
    old = json.dumps({"parts": {}, "note": "x" * 3000})
    (small_disk / "bench.json").write_text(old)
    (small_disk / "filler").write_bytes(bytes(DISK_BYTES - 4096))
    done = bench("--only", "memory", "--out", str(small_disk))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    assert (small_disk / "bench.json").read_text() == old
    assert sorted(path.name for path in small_disk.iterdir()) == ["bench.json", "filler"]


def finding(found: dict[str, Any]) -> Callable[[object], dict[str, Any]]:
    """A part of the benchmark that finds this at once."""
    return lambda _given: found


def test_what_a_full_disk_does_not_take_goes_to_standard_output(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"memory": {"memory": "x" * DISK_BYTES}, "skew": {"skew": "short"}}
    for part in parts:
        monkeypatch.setitem(bench_run._PARTS, part, finding(parts[part]))
    assert bench_run.main(["--only", *parts, "--out", str(small_disk)]) == 1
    told = capsys.readouterr()
    assert "No space left on device" in told.err
    assert {name: json.loads(told.out)[name] for name in parts} == parts["memory"] | parts["skew"]


def test_two_benchmarks_do_not_write_one_folder(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    with pytest.raises(InputError, match="no other benchmark is writing"):
        Store(tmp_path, {})
    store.close()
    Store(tmp_path, {}).close()
