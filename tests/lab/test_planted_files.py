"""Links, FIFOs and folders that another program left in the folder of a run or of a report are not followed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from punchlab import reports
from punchlab.lab.campaign.files import write_file
from punchlab.lab.campaign.results import RunFolder
from punchlab.lab.errors import InputError
from punchlab.lab.kernel.folder import Folder
from punchlab.reports.files import put_files
from tests.commands import assert_one_clear_line, punchlab, run
from tests.reports.sample import record, write_run

PARAMETERS = {"schema": 1, "topology": "ab"}
REPORT = {"index.html": b"page", "charts/one.png": b"chart"}
KINDS = {"a link": "symbolic link", "a link to nothing": "symbolic link", "a fifo": "not a regular file"}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user, outside of the folder in which entries are planted."""
    folder = tmp_path / "victim"
    (folder / "photos").mkdir(parents=True)
    (folder / "notes").write_text("mine")
    (folder / "index.html").write_text("my page")
    (folder / "photos" / "one.png").write_text("my photo")
    (folder / "photos" / "two.png").write_text("my other photo")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def plant(entry: Path, kind: str, victim: Path) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "a link":
            entry.symlink_to(victim / "notes")
        case "a link to a folder":
            entry.symlink_to(victim / "photos")
        case "a link to nothing":
            entry.symlink_to(victim / "new")
        case "a fifo":
            os.mkfifo(entry)
        case "a folder":
            entry.mkdir()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("results.jsonl", "a link"),
        ("results.jsonl", "a link to nothing"),
        ("results.jsonl", "a folder"),
        ("run.json", "a link"),
        ("run.json", "a link to nothing"),
        ("captures", "a link to a folder"),
        ("captures", "a fifo"),
    ],
)
def test_a_run_refuses_a_planted_entry_and_changes_nothing_elsewhere(
    tmp_path: Path, victim: Path, name: str, kind: str
) -> None:
    before = contents(victim)
    plant(tmp_path / "run" / name, kind, victim)
    with pytest.raises(InputError, match=r"^out: .* cannot be used; expected a directory that can be written"):
        RunFolder(tmp_path / "run", PARAMETERS)
    assert contents(victim) == before


@pytest.mark.parametrize("name", ["results.jsonl", "run.json"])
def test_a_run_does_not_wait_for_a_fifo(tmp_path: Path, victim: Path, name: str) -> None:
    plant(tmp_path / name, "a fifo", victim)
    command = ["run", "ab", "--nat-a", "none", "--nat-b", "none", "--trials", "1", "--out", str(tmp_path)]
    done = run(punchlab(*command), timeout=30)
    assert done.returncode == 2
    error = f"punchlab: out: '{tmp_path}' cannot be used; expected a directory that can be written ({name} is not a "
    assert done.stderr.splitlines()[-1] == f"{error}regular file)"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("mine", id="a file without a line end"),
        pytest.param('{"a": 1}\n{"b', id="an object that is no record"),
        pytest.param(f"{json.dumps(record())}\nmine", id="a last line that is no record"),
    ],
)
def test_a_file_that_no_run_wrote_is_not_truncated(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"results\.jsonl:[12]' cannot be used"):
        RunFolder(tmp_path, PARAMETERS)
    assert (tmp_path / "results.jsonl").read_text() == content


def test_links_at_names_with_the_process_id_do_not_lead_anywhere(tmp_path: Path, victim: Path) -> None:
    before, folder = contents(victim), tmp_path / "run"
    for name in (".run.json", "captures/.one.pcapng", ".results.parquet"):
        plant(folder / f"{name}.{os.getpid()}.tmp", "a link", victim)
    opened = RunFolder(folder, PARAMETERS)
    opened.append({**record(), "id": "one"}, b"packets")
    opened.close()
    write_file(folder / "results.parquet", b"table")
    assert contents(victim) == before
    assert (folder / "captures" / "one.pcapng").read_bytes() == b"packets"
    assert (folder / "results.parquet").read_bytes() == b"table"


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_capture_is_refused(tmp_path: Path, victim: Path, kind: str) -> None:
    before = contents(victim)
    opened = RunFolder(tmp_path / "run", PARAMETERS)
    plant(tmp_path / "run" / "captures" / "one.pcapng", kind, victim)
    with pytest.raises(InputError, match=rf"^capture: .*/captures/one\.pcapng' .*one\.pcapng is a? ?{KINDS[kind]}"):
        opened.append({**record(), "id": "one"}, b"packets")
    opened.close()
    assert contents(victim) == before


def test_a_run_stays_in_the_folder_that_it_opened(tmp_path: Path, victim: Path) -> None:
    opened = RunFolder(tmp_path / "run", PARAMETERS)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").symlink_to(victim)
    before = contents(victim)
    opened.append({**record(), "id": "one"}, b"packets")
    opened.close()
    assert contents(victim) == before
    assert (tmp_path / "moved" / "captures" / "one.pcapng").read_bytes() == b"packets"


@pytest.mark.parametrize("identity", ["../one", "/tmp/one", "a/b"])
def test_the_id_of_a_record_is_no_path(tmp_path: Path, identity: str) -> None:
    opened = RunFolder(tmp_path / "run", PARAMETERS)
    with pytest.raises(InputError, match=r"^capture: .*not the name of a file"):
        opened.append({**record(), "id": identity}, b"packets")
    opened.close()
    assert sorted(contents(tmp_path)) == ["run/results.jsonl", "run/run.json"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "a link"),
        ("index.html", "a link to nothing"),
        ("index.html", "a fifo"),
        ("charts/one.png", "a link"),
        ("charts/one.png", "a folder"),
        ("charts", "a link to a folder"),
        (".report.tmp", "a link to a folder"),
        (".report.tmp", "a fifo"),
    ],
)
def test_a_report_refuses_a_planted_entry(tmp_path: Path, victim: Path, name: str, kind: str) -> None:
    before, folder = contents(victim), tmp_path / "report"
    plant(folder / name, kind, victim)
    with pytest.raises(InputError, match=r"^out: .* cannot be used"):
        put_files(folder, REPORT, replaced="charts")
    assert contents(victim) == before
    assert (folder / name).is_symlink() == kind.startswith("a link")


def test_what_is_planted_where_a_report_prepares_its_files_is_removed(tmp_path: Path, victim: Path) -> None:
    before, folder = contents(victim), tmp_path / "report"
    plant(folder / ".report.tmp" / "index.html", "a link", victim)
    plant(folder / ".report.tmp" / "charts", "a link to a folder", victim)
    plant(folder / ".report.tmp" / "fifo", "a fifo", victim)
    plant(folder / "charts" / "old.png", "a link", victim)
    put_files(folder, REPORT, replaced="charts")
    assert contents(victim) == before
    assert contents(folder) == {name: content.decode() for name, content in REPORT.items()}
    assert {path.name for path in folder.iterdir()} == {"index.html", "charts"}


@pytest.mark.parametrize("name", ["results.jsonl", "run.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_report_neither_follows_nor_waits(tmp_path: Path, victim: Path, name: str, kind: str) -> None:
    folder = write_run(tmp_path / "run", [record()])
    (folder / name).unlink(missing_ok=True)
    plant(folder / name, kind, victim)
    done = run(punchlab("report", str(folder)), timeout=30)
    assert_one_clear_line(done, str(folder / name), f"{name} is ", KINDS[kind])


def test_links_in_the_working_directory_are_not_followed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_run(project / "good", [record()])
    (project / "runs").symlink_to(victim)
    (tmp_path / "alias").symlink_to(project)
    monkeypatch.chdir(project)
    before = contents(victim)
    uses: list[Callable[[Path], object]] = [
        lambda out: RunFolder(out, PARAMETERS),
        lambda out: reports.write(Path("good"), out=out),
        lambda out: write_file(out / "file", b""),
    ]
    for use in uses:
        for out in ("runs", "runs/new", "../project/runs", str(project / "runs"), str(tmp_path / "alias" / "runs")):
            with pytest.raises(InputError, match="runs is a symbolic link"):
                use(Path(out))
    assert contents(victim) == before


def test_links_elsewhere_are_followed(tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(victim)
    monkeypatch.chdir(tmp_path / "project")
    for name in ("../link/runs/a", str(tmp_path / "link" / "runs" / "b")):
        with Folder.open(Path(name), create=True) as folder:
            folder.replace("file", b"new")
    assert {"runs/a/file", "runs/b/file"} <= contents(victim).keys()


@pytest.mark.parametrize("kind", ["a link", "a fifo", "a folder"])
def test_a_capture_of_a_trial_replaces_only_a_regular_file(tmp_path: Path, victim: Path, kind: str) -> None:
    before = contents(victim)
    plant(tmp_path / "x.pcapng", kind, victim)
    done = run(punchlab("trial", "ab", "--capture", str(tmp_path / "x.pcapng")))
    assert_one_clear_line(done, "capture", str(tmp_path / "x.pcapng"), "x.pcapng is ")
    assert contents(victim) == before
