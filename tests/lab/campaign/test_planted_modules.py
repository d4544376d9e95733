"""Modules and settings in the working directory, which an earlier command may have planted there, are not used."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.commands import HIDE_SANDBOX, punchlab, run

HELPERS = ("multiprocessing", "asyncio", "threading", "socket", "random", "matplotlib")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A working directory in which modules with the names of others leave a trace."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in HELPERS:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'trace')!r}, 'a').write({name!r})\nraise SystemExit\n"
        )
    return folder


def test_a_campaign_and_its_report_use_no_module_of_the_working_directory(planted: Path) -> None:
    # The installed script has no -P, which the helpers of multiprocessing would inherit.
    script = str(Path(sys.executable).with_name("punchlab"))
    campaign = ("run", "ab", "--nat-a", "full_cone", "--nat-b", "none", "--trials", "2", "--out", "o")
    for words in (campaign, ("report", "o")):
        done = run([*HIDE_SANDBOX, script, *words], cwd=planted)
        assert done.returncode == 0, done
    assert not (planted.parent / "trace").exists()
    records = [json.loads(line) for line in (planted / "o" / "results.jsonl").read_text().splitlines()]
    assert [record["outcome"] for record in records] == ["direct", "direct"]


def test_a_report_does_not_wait_for_settings_of_matplotlib_in_the_working_directory(planted: Path) -> None:
    for name in HELPERS:
        (planted / f"{name}.py").unlink()
    command = punchlab("run", "ab", "--nat-a", "full_cone", "--nat-b", "none", "--trials", "1", "--out", "o")
    assert run(command, cwd=planted).returncode == 0
    os.mkfifo(planted / "matplotlibrc")
    done = run([sys.executable, "-m", "punchlab.lab.cli", "report", "o"], cwd=planted, timeout=60)
    assert done.returncode == 0, done
    assert (planted / "o" / "index.html").exists()
