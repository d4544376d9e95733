"""Long-running commands report progress without a terminal, and their tables have titles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import punchlab, run


def test_a_run_reports_progress(tmp_path: Path) -> None:
    """A pair that cannot connect takes its whole deadline: six seconds without a result."""
    words = ("--nat-a", "symmetric", "--nat-b", "symmetric", "--trials", "1", "--deadline", "6")
    done = run(punchlab("run", "ab", *words, "--out", str(tmp_path / "out")))
    assert done.returncode == 0, done
    lines = re.findall(r"^0/1, 0 direct, 0:(\d\d) gone$", done.stderr, flags=re.MULTILINE)
    assert len(lines) >= 2, done.stderr
    assert "gone" not in done.stdout


def test_a_check_of_nats_reports_progress() -> None:
    done = run(punchlab("nat", "check", "symmetric", "--json"))
    lines = done.stderr.splitlines()
    assert lines, done
    assert set(lines) <= {"probing", "probing, 0 of 1 NATs done", "probing, 1 of 1 NATs done"}


@pytest.mark.parametrize("topologies", ["ab", "ab,cd"])
def test_every_table_of_a_run_has_a_title(topologies: str, tmp_path: Path) -> None:
    words = ("--nat-a", "none", "--nat-b", "none", "--trials", "1")
    done = run(punchlab("run", topologies, *words, "--out", str(tmp_path / "out")))
    before = re.findall(r"^(.*)\n┏", done.stdout, flags=re.MULTILINE)
    matrices = [line for line in before if "direct / trials (rows: first NAT, columns: second)" in line]
    assert [line.partition("-")[0] for line in matrices] == topologies.split(",")
    assert all(line.strip() for line in before)
