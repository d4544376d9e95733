from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from punchlab.reports.files import put_files

SIZE = 300_000
NAMES = ("index.html", "charts/one.png", "charts/two.svg")
WRITE = f"""
import sys
from itertools import cycle, islice
from pathlib import Path
from punchlab.reports.files import put_files
for letter in islice(cycle((b"a", b"b")), int(sys.argv[2])):
    files = {{name: letter * {SIZE} for name in {NAMES}}}
    put_files(Path(sys.argv[1]), files, replaced="charts")
    print(flush=True)
"""


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def whole(directory: Path) -> bool:
    """Whether every file is, at this moment, all of one letter or all of the other."""
    return all((directory / name).read_bytes() in {b"a" * SIZE, b"b" * SIZE} for name in NAMES)


@pytest.mark.parametrize("reads", range(20, 220, 20))
def test_neither_a_reader_nor_a_kill_meets_a_half_file(tmp_path: Path, reads: int) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path), str(sys.maxsize)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen_whole = [whole(tmp_path) for _ in range(reads)]
        writer.send_signal(signal.SIGKILL)
    assert all(seen_whole)
    assert whole(tmp_path)
    put_files(tmp_path, {"index.html": b"new"}, replaced="charts")
    assert names(tmp_path) == {"index.html"}


def test_charts_of_an_earlier_report_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    put_files(tmp_path, {"charts/old.svg": b"1", "charts/same.png": b"1", "summary.md": b"1"}, replaced="charts")
    (tmp_path / "charts" / "notes.txt").write_text("mine")
    put_files(tmp_path, {"charts/same.png": b"2"}, replaced="charts")
    assert names(tmp_path) == {"charts/same.png", "charts/notes.txt", "summary.md"}
    assert (tmp_path / "charts" / "same.png").read_bytes() == b"2"


def test_two_writers_at_once_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path), "20"]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert names(tmp_path) == set(NAMES)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, reports.files as f; f.put_files(pathlib.Path(sys.argv[1]), {'a': b''}, replaced='charts')"
    )
    # root may write everywhere, unless it gives up the capability for it
    weak = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    tmp_path.chmod(0o500)
    done = subprocess.run(
        [*weak, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    tmp_path.chmod(0o700)
    assert f"InputError: out: '{tmp_path}' cannot be used" in done.stderr
    assert not names(tmp_path)
