"""The scripts: help, mistakes, missing programs, signs of life, and what is lost when a part of them fails."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.scripts import PLAIN, PROJECT, clone, path_of, run, script

NAMES = sorted(path.name for path in (PROJECT / "script").iterdir() if path.is_file() and os.access(path, os.X_OK))


def test_all_scripts_are_tried_here() -> None:
    assert {"bench", "bootstrap", "demo", "strategies", "test", "test-netem", "uml"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_is_printed_from_a_plain_shell_in_another_directory(name: str) -> None:
    done = run(script(name, "--help"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: script/{name}" in done.stdout or f"usage: {name}" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str, tmp_path: Path) -> None:
    done = run(script(name, "--no-such-option", project=clone(tmp_path / "clone")))
    assert done.returncode == 2, done
    assert "--no-such-option" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("bootstrap", "tshark"),
        ("bootstrap", "=tshark"),
        ("demo", "--out", "elsewhere"),
        ("strategies", "--out=elsewhere"),
        ("provision", "now"),
        ("make-box", ""),
        ("make-box", "one", "two"),
        ("vagrant-e2e", "box", ""),
        ("uml", "--root", "", "true"),
        ("uml", "--writable", "/no/such/folder", "true"),
        ("uml", "--timeout", "nan", "true"),
        ("uml",),
    ],
    ids=" ".join,
)
def test_a_word_that_cannot_be_used_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = words
    project = clone(tmp_path / "clone")
    done = run(script(name, *rest, project=project))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("words", "packages"),
    [
        (("bootstrap", "no-such-program=its-package,its-service"), ("tshark", "mininet", "its-package")),
        (("make-box", "new.box"), ("mmdebstrap", "vagrant", "qemu-utils")),
        (("vagrant-e2e", "new.box", "true"), ("vagrant", "libvirt-clients", "slirp4netns", "rsync")),
    ],
    ids=lambda value: value[0],
)
def test_all_that_is_missing_is_named_at_once(
    words: tuple[str, ...], packages: tuple[str, ...], tmp_path: Path
) -> None:
    path = path_of(tmp_path / "bin", ["python3", "unshare"])
    done = run(script(*words, project=clone(tmp_path / "clone")), env=PLAIN | {"PATH": path}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "missing" in line
    assert set(packages) <= set(re.split(r"[ ;]+", line))
    assert not (tmp_path / "new.box").exists()


PRESENT = ("unshare", "ip", "sysctl", "iptables", "nft", "ping", "tshark", "brctl", "ifconfig", "python3")
"""What script/bootstrap looks for, without mnexec."""


def test_an_installation_shows_signs_of_life(tmp_path: Path) -> None:
    """apt-get stands still; the lines that come in the meantime say for how long, and what it did last."""
    end = tmp_path / "end"
    os.mkfifo(end)
    path = path_of(
        tmp_path / "bin",
        PRESENT,
        sudo='exec "$@"',
        apt_get=f"echo Get:1 the list; case $* in *update*) cat {end};; esac",
    )
    command = script("bootstrap", "mnexec=mininet", project=clone(tmp_path / "clone"))
    began = time.monotonic()
    with subprocess.Popen(command, env=PLAIN | {"PATH": path}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        waited = time.monotonic() - began
        end.write_text("")
        rest = process.stdout.read()
    assert lines[0].startswith("bootstrap: updating the list of Debian packages")
    assert all(re.fullmatch(r"bootstrap: \d+ s: Get:1 the list\n", line) for line in lines[1:]), lines
    assert waited < 5 * len(lines)
    assert "installing Debian packages: mininet" in rest
    assert process.returncode == 0


def test_the_output_of_an_installation_that_fails_is_shown(tmp_path: Path) -> None:
    path = path_of(tmp_path / "bin", PRESENT, sudo='exec "$@"', apt_get="echo E: no space left; exit 100")
    done = run(script("bootstrap", project=clone(tmp_path / "clone")), env=PLAIN | {"PATH": path})
    assert done.returncode == 1
    assert "E: no space left" in done.stderr
    assert "exit status 100" in done.stderr.splitlines()[-1]


def test_an_environment_that_is_good_is_kept_whatever_python3_is_first_in_the_path(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    other = 'case "$1" in --version) echo Python 3.99.9;; *) exit 0;; esac'
    path = path_of(tmp_path / "bin", ["mnexec", *PRESENT[:-1]], python3=other)
    done = run(script("bootstrap", project=project), env=PLAIN | {"PATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_demo_names_the_report_and_the_topology_of_each_table(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    done = run(script("demo", "--nat-a", "none", "--nat-b", "full_cone", project=project))
    assert done.returncode == 0, done
    last = done.stdout.splitlines()[-1]
    page = last.removeprefix("demo: open the report: ")
    assert Path(page).is_relative_to(project)
    assert Path(page).stat().st_size > 0
    # It draws the report itself.
    assert "punchlab report" not in done.stdout + done.stderr
    titles = re.findall(r"^(\w+)-\S+: direct / trials", done.stdout, flags=re.MULTILINE)
    assert titles == ["ab", "cd"]
    assert done.stdout.count("┏") == len(titles)
    again = run(script("demo", "--nat-a", "none", "--nat-b", "full_cone", project=project))
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == last


def test_a_demo_whose_results_are_of_other_options_says_so_and_keeps_them(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    (project / "runs/demo/ab").mkdir(parents=True)
    (project / "runs/demo/ab/run.json").write_text('{"trials": 7}')
    done = run(script("demo", project=project))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "runs/demo/ab" in line
    assert (project / "runs/demo/ab/run.json").read_text() == '{"trials": 7}'
