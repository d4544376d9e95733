"""The pytest plugin in a user's project, with modules that have the names of ours, and in programs that call pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from punchlab.lab.confinement import sandbox
from tests.commands import ROOT, run

OUTSIDE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
PYTEST = str(Path(sys.executable).with_name("pytest"))
TEST = """
from punchlab import Lab
from punchlab.topologies import AB

def test_two():
    with Lab(AB(nat_a="full_cone", nat_b="full_cone")) as lab:
        assert lab.punch("a", "b").direct
"""
PROGRAM = """
import sys
import pytest

class Seen:
    count = 0

    def pytest_runtest_logreport(self, report):
        self.count += report.when == "call"

seen = Seen()
print("before", flush=True)
status = pytest.main(["-p", "punchlab.lab.pytest_sandbox", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[seen])
print(f"the plugin saw {seen.count}, status {int(status)}")
sys.exit(7)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p punchlab.lab.pytest_sandbox"\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TEST)
    return tmp_path


def outside(command: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = [f"{name}={value}" for name, value in environment.items()]
    return run([*OUTSIDE, "env", *variables, *command], cwd=folder)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("lab.py", [PYTEST]),
        ("lab.py", [sys.executable, "-m", "pytest"]),
        ("lab/__init__.py", [sys.executable, "-m", "pytest"]),
        ("punch.py", [sys.executable, "-m", "pytest", "-n", "1"]),
        ("topologies.py", [PYTEST]),
        ("random.py", [PYTEST]),
    ],
)
def test_a_module_of_the_user_does_not_replace_ours(name: str, command: list[str], project: Path) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("y = 2\n")
    done = outside([*command, "-q"], project)
    assert done.returncode == 0, done
    assert "1 passed" in done.stdout


def test_a_lab_on_the_python_path_does_not_replace_ours(project: Path) -> None:
    (project / "lab.py").write_text("y = 2\n")
    path = os.pathsep.join(filter(None, (str(project), os.environ.get("PYTHONPATH"))))
    done = outside([sys.executable, "-m", "pytest", "-q"], project, PYTHONPATH=path)
    assert done.returncode == 0, done
    script = str(Path(sys.executable).with_name("punchlab"))
    campaign = [script, "run", "ab", "--nat-a", "none", "--nat-b", "none", "--trials", "1", "--out", "out"]
    done = outside(campaign, project, PYTHONPATH=path)
    assert done.returncode == 0, done


def test_modules_with_the_names_of_our_folders_belong_to_the_user(project: Path) -> None:
    names = ("lab", "punch", "reports", "topologies")
    for name in names:
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(f"name = {name!r}\n")
    own = "".join(f"import {name}\nassert {name}.name == {name!r}\n" for name in names)
    (project / "tests" / "test_it.py").write_text(own + TEST)
    done = outside([sys.executable, "-m", "pytest", "-q"], project)
    assert done.returncode == 0, done


@pytest.mark.parametrize("tests", [["tests"], ["tests", "-n", "1"]])
def test_a_program_that_calls_pytest_continues_inside_with_its_state(project: Path, tests: list[str]) -> None:
    (project / "runner.py").write_text(PROGRAM)
    done = outside([sys.executable, "runner.py", *tests], project)
    assert done.stdout.count("before") == 1, done
    assert "the plugin saw 1, status 0" in done.stdout
    assert done.returncode == 7


def test_a_program_with_other_threads_gets_a_clear_error(project: Path) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, name='spinner', daemon=True).start()\n"
    (project / "runner.py").write_text(thread + PROGRAM)
    done = outside([sys.executable, "runner.py", "tests"], project)
    assert "the plugin saw 0, status 4" in done.stdout, done
    (line,) = done.stderr.strip().splitlines()
    assert "other threads (spinner)" in line
    assert "punchlab sandbox" in line


def test_without_privileges_the_error_names_what_is_missing(project: Path) -> None:
    done = outside(["setpriv", "--bounding-set=-all", "--inh-caps=-all", PYTEST, "-q"], project)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ERROR: punchlab: sandbox: ")
    assert "--privileged" in line


def test_without_the_plugin_pytest_stays_outside(project: Path) -> None:
    (project / "pyproject.toml").write_text("")
    (project / "tests" / "test_it.py").write_text(
        "from pathlib import Path\n\ndef test_it():\n    assert not Path('/run/punchlab-sandbox').exists()\n"
    )
    done = outside([PYTEST, "-q"], project)
    assert done.returncode == 0, done


@pytest.fixture
def interpreter() -> str:
    """Return a Python that other users can run, with this project and its packages."""
    if sandbox.user() != 0:
        pytest.skip("only root can be several users")
    for found in (sys.executable, "/usr/bin/python3"):
        if run([*as_user(65534, ROOT), found, "-c", "import punchlab, pytest"]).returncode == 0:
            return found
    pytest.skip("other users cannot run this checkout")


def as_user(user: int, home: Path) -> list[str]:
    path = os.pathsep.join((str(ROOT / "src"), *filter(None, sys.path)))
    words = ["setpriv", f"--reuid={user}", "--clear-groups", "env", "--unset=PYTEST_DEBUG_TEMPROOT", f"HOME={home}"]
    return [*words, f"TMPDIR={home}", "USER=root", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1"]


def test_every_user_has_temporary_directories(interpreter: str) -> None:
    shared = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shared.chmod(0o1777)
        test = shared / "test_it.py"
        test.write_text("def test_it(tmp_path):\n    (tmp_path / 'file').touch()\n")
        words = [
            interpreter,
            "-m",
            "pytest",
            "-q",
            "-p",
            "punchlab.lab.pytest_sandbox",
            "-p",
            "no:cacheprovider",
            str(test),
        ]
        for user in (0, 65534, 65533, 65534):
            done = outside([*as_user(user, shared), *words], shared)
            assert done.returncode == 0, (user, done)
        found = {each.name for each in shared.iterdir()}
        assert found == {"test_it.py", "pytest-of-root", "punchlab-of-65534", "punchlab-of-65533"}
        test.write_text("def test_it():\n    pass\n")
        assert outside([*as_user(65532, shared), *words], shared).returncode == 0
        assert found == {each.name for each in shared.iterdir()}
    finally:
        shutil.rmtree(shared)
