"""`pytest --report DIR`: the same results with any number of workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.commands import ROOT, run

PROJECT = """\
import os, pathlib, signal
import pytest

@pytest.mark.parametrize("nat", ["none", "full_cone", "restricted_cone", "port_restricted_cone"])
def test_meets(punch, nat, monkeypatch):
    monkeypatch.chdir("/")
    assert punch("ab", "none", nat).direct

def test_last(punch):
    assert punch("ab", "none", "none").direct
    if pathlib.Path(__file__).with_name("crash").exists():
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""Tests of a project outside of the checkout, which has a module with the name of one of ours."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text(PROJECT)
    (folder / "reports.py").write_text("")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p punchlab.lab.pytest_sandbox -p scenarios.conftest\n")
    return folder


def session(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    pytest_script = Path(sys.executable).with_name("pytest")
    # The scenarios are not installed.
    return run(
        ["env", f"PYTHONPATH={ROOT}", str(pytest_script), "-q", "-p", "no:cacheprovider", *words],
        cwd=project,
        timeout=300,
    )


def trials(folder: Path) -> list[str]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["id"] for line in lines)


def test_workers_write_one_report_with_the_trials_of_one_process(project: Path) -> None:
    alone = session(project, "--report", "one", "--junitxml", "one.xml")
    assert alone.returncode == 0, alone
    several = session(project, "-n", "2", "--report", "two", "--junitxml", "two.xml")
    assert several.returncode == 0, several
    assert len(trials(project / "one")) == 5
    assert trials(project / "two") == trials(project / "one")
    for folder in (project / "one", project / "two"):
        names = {f"captures/{name}.pcapng" for name in trials(folder)}
        assert all((folder / name).stat().st_size > 0 for name in names)
        assert "5 trials measured: 5 direct" in (folder / "summary.md").read_text()
    suite = ElementTree.parse(project / "two.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "0", "0")


def test_a_worker_that_is_killed_leaves_the_report_of_all_trials(project: Path) -> None:
    (project / "crash").touch()
    done = session(project, "-n", "2", "--report", "out")
    assert done.returncode == 1, done
    assert "crashed" in done.stdout
    assert len(trials(project / "out")) == 5
    assert "5 trials measured" in (project / "out" / "summary.md").read_text()


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("there", ["results of tests", "results of a run", "a file"])
def test_a_folder_that_has_results_is_refused_at_once(project: Path, workers: str, there: str) -> None:
    out = project / "out"
    if there == "a file":
        out.write_text("")
    else:
        out.mkdir()
        (out / "results.jsonl").write_text("{}\n" if there == "results of a run" else "")
        (out / "run.json").write_text(
            '{"schema": 2}' if there == "results of a run" else '{"schema": 1, "scenarios": true}'
        )
    if there == "results of tests":
        (out / "results.jsonl").write_text(
            '{"id": "a", "nat_a": "a", "nat_b": "b", "outcome": "direct", "reason": null, "agrees": true}\n'
        )
    done = session(project, "-n", workers, "--report", "out")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done
    (line,) = done.stderr.split("\n\n")[0].splitlines()
    assert line.startswith(f"ERROR: --report: '{out}' cannot be used; expected a ")


def test_collecting_makes_no_folder(project: Path) -> None:
    assert session(project, "--collect-only", "--report", "out").returncode == 0
    assert not (project / "out").exists()


def test_the_scenarios_of_the_checkout_take_the_option_from_anywhere(project: Path) -> None:
    words = ("-n", "2", "--report", "out", str(ROOT / "scenarios" / "test_nat_matrix.py"), "-k", "ab-none-none")
    done = session(project, "-c", str(ROOT / "pyproject.toml"), *words)
    assert done.returncode == 0, done
    assert len(trials(project / "out")) >= 1
