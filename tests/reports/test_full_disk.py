"""A report where there is no room, or no place: one line, and no half file under a final name."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from punchlab import reports
from punchlab.lab.campaign.files import write_file
from punchlab.lab.errors import InputError, LabError, PunchlabError
from tests.commands import punchlab, run
from tests.reports.sample import matrix, record, write_run


def on_small_disk(out: Path, kilobytes: int, *words: str) -> tuple[int, list[str], list[str]]:
    """Run `punchlab WORDS` with a file system of so many kB at `out`: status, lines of errors, files and contents."""
    out.mkdir(exist_ok=True)
    steps = (
        f'mount -t tmpfs -o size={kilobytes}k none {out}; echo old >{out}/summary.md; "$@"; echo "status $?";'
        f" cd {out}; find . -type f -printf '%p '; head -c 4 summary.md"
    )
    done = run(["unshare", "--mount", "sh", "-c", steps, "sh", *punchlab(*words)])
    *_rest, status, files = done.stdout.splitlines()
    return int(status.removeprefix("status ")), done.stderr.splitlines(), files.split()


@pytest.mark.parametrize("kilobytes", [8, 100, 600])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, kilobytes: int) -> None:
    source = write_run(tmp_path / "run", matrix("ab"))
    status, errors, files = on_small_disk(
        tmp_path / "out", kilobytes, "report", str(source), "--out", str(tmp_path / "out")
    )
    assert status == 1
    assert errors == [f"punchlab: out: {tmp_path / 'out'}: No space left on device"]
    assert files == ["./summary.md", "old"]


def test_a_parquet_file_on_a_full_disk_leaves_no_draft(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(LabError, match=r"^out: .*results\.parquet: File too large$"):
            write_file(tmp_path / "results.parquet", b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["a file", "under a file", "a long name", "a loop", "proc", "index.html is a directory"]
)
def test_an_out_that_cannot_be_is_bad_input(tmp_path: Path, place: str) -> None:
    source = write_run(tmp_path / "run", [record()])
    out = tmp_path / "out"
    match place:
        case "a file":
            out.write_text("")
        case "under a file":
            out = source / "results.jsonl" / "out"
        case "a long name":
            out = tmp_path / ("x" * 300)
        case "a loop":
            out.symlink_to(out)
        case "proc":
            out = Path("/proc/self/out")
        case "index.html is a directory":
            (out / "index.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^out: .* cannot be used; expected"):
        reports.write(source, out=out)
    if place == "index.html is a directory":
        assert [path.name for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["results.parquet", "x" * 300, "nowhere/results.parquet"])
def test_a_file_that_cannot_be_is_bad_input(tmp_path: Path, name: str) -> None:
    (tmp_path / "results.parquet").mkdir()
    with pytest.raises(PunchlabError, match=r"^out: .*expected a file that can be written"):
        write_file(tmp_path / name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


@pytest.mark.parametrize("words", [("nat", "show", "symmetric", "--rules"), ("predict",), ("nat", "list")])
def test_a_full_standard_output_is_one_line(words: tuple[str, ...]) -> None:
    done = run(["sh", "-c", '"$@" >/dev/full', "sh", *punchlab(*words)])
    assert done.returncode == 1
    assert done.stderr == "punchlab: standard output: No space left on device\n"
