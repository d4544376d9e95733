"""All received files get their names or none does, whichever step fails, and a second attempt succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.transfer.files import final_names, renameat2
from punchlab.punch.transfer.files.file_sink import FileSink, Incoming
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.offer import DirectoryInfo, FileInfo, Offered
from tests.punch.transfer.killed import OFFERED, store, visible

ALL = ["a", "b", "d", "d/empty", "d/sub", "d/sub/y", "d/x", "e", "e/z"]


def arrive(inbox: FileSink, offered: list[Offered], content: bytes = b"x") -> list[Incoming]:
    """All files are received, and none has its final name."""
    inbox.check(offered)
    arrived: list[Incoming] = []
    for info in offered:
        if isinstance(info, FileInfo):
            with inbox.create(info) as incoming:
                incoming.write(content)
                incoming.verify(hashlib.sha256(content).digest())
            arrived.append(incoming)
    return arrived


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount a separate file system."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def allow_inodes(directory: Path, count: int) -> None:
    subprocess.run(["mount", "-o", f"remount,nr_inodes={count}", directory], check=True)


def test_a_full_disk_at_any_step_leaves_no_name_and_the_second_attempt_succeeds(small: Path) -> None:
    failed = 0
    for more in range(2 * len(ALL) + 1):
        with FileSink(small, force=False) as inbox:
            arrived = arrive(inbox, OFFERED)
            used = os.statvfs(small).f_files - os.statvfs(small).f_ffree
            allow_inodes(small, used + more)
            reason = ""
            try:
                inbox.store(OFFERED, arrived)
            except FileError as error:
                reason = str(error)
            allow_inodes(small, 1000)
            if not reason:
                break
            assert "No space left on device" in reason
            assert visible(small) == []
            inbox.discard(OFFERED)
            assert list(small.iterdir()) == []
            failed += 1
    assert failed >= 5  # d, its two directories, e, and at least the step before the last
    assert visible(small) == ALL
    assert not [path for path in small.iterdir() if path.name.startswith(".")]


def test_a_full_disk_is_no_reason_to_refuse_what_comes_again(small: Path) -> None:
    with FileSink(small, force=False) as inbox:
        arrived = arrive(inbox, OFFERED)
        allow_inodes(small, os.statvfs(small).f_files - os.statvfs(small).f_ffree + 2)
        with pytest.raises(FileError, match="No space left"):
            inbox.store(OFFERED, arrived)
        inbox.discard(OFFERED)
    allow_inodes(small, 1000)
    store(small)
    assert visible(small) == ALL


def test_a_file_system_that_becomes_read_only_leaves_no_name_and_the_second_attempt_succeeds(small: Path) -> None:
    with FileSink(small, force=False) as inbox:
        arrived = arrive(inbox, OFFERED)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with pytest.raises(FileError, match="Read-only file system"):
            inbox.store(OFFERED, arrived)
        inbox.discard(OFFERED)
        assert visible(small) == []
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    store(small)
    assert visible(small) == ALL


def test_a_process_that_is_killed_at_any_step_leaves_what_a_second_attempt_completes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.punch.transfer.killed", str(tmp_path), "4"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    deaths = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {tuple(each["after"]) for each in deaths} >= {(), ("a",), tuple(ALL)}
    for each in deaths:
        assert each["end"] == ALL
        assert not each["refused"] or each["after"] == ALL
        for name in ("d", "e"):  # a directory exists with all of its contents, or not at all
            below = [path for path in each["after"] if path.split("/")[0] == name]
            assert below in ([], [path for path in ALL if path.split("/")[0] == name])


@pytest.mark.parametrize("name", ["a", "b", "d", "e"])
def test_a_name_that_appears_meanwhile_is_left_alone_and_nothing_else_gets_one(tmp_path: Path, name: str) -> None:
    with FileSink(tmp_path, force=False) as inbox:
        arrived = arrive(inbox, OFFERED)
        (tmp_path / name).mkdir()
        with pytest.raises(FileError, match=f"'{name}' already exists"):
            inbox.store(OFFERED, arrived)
        inbox.discard(OFFERED)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list((tmp_path / name).iterdir()) == []
    (tmp_path / name).rmdir()
    store(tmp_path)
    assert visible(tmp_path) == ALL


@pytest.mark.parametrize("flags", [True, False])
def test_with_force_a_failure_leaves_every_file_as_it_was(
    tmp_path: Path, flags: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Offered] = [FileInfo("a", 1), FileInfo("d/new/x", 1), FileInfo("d/old", 1), FileInfo("d/z", 1)]
    if not flags:  # as on a file system without symbolic links
        monkeypatch.setattr(renameat2, "_renameat2", None)
        offered = [offered[1], offered[3]]
    for path in ("a", "d/old", "d/mine"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"mine")
    before = visible(tmp_path)
    with FileSink(tmp_path, force=True) as inbox:
        arrived = arrive(inbox, offered)
        (tmp_path / "d/z").mkdir()
        with pytest.raises(FileError, match="'d/z' cannot be stored: Is a directory"):
            inbox.store(offered, arrived)
        inbox.discard(offered)
        (tmp_path / "d/z").rmdir()
        assert visible(tmp_path) == before
        assert {(tmp_path / path).read_bytes() for path in ("a", "d/old", "d/mine")} == {b"mine"}
        inbox.store(offered, arrive(inbox, offered))
    assert (tmp_path / "d/z").read_bytes() == (tmp_path / "d/new/x").read_bytes() == b"x"
    assert (tmp_path / "d/mine").read_bytes() == b"mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_with_force_a_file_takes_the_place_of_another_and_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a").write_bytes(b"old")
    (inside / "b").symlink_to(tmp_path / "outside")
    with FileSink(inside, force=True) as inbox:
        offered: list[Offered] = [FileInfo("a", 1), FileInfo("b", 1)]
        inbox.store(offered, arrive(inbox, offered))
    assert sorted(path.name for path in inside.iterdir()) == ["a", "b"]
    assert all(stat.S_ISREG(path.lstat().st_mode) and path.read_bytes() == b"x" for path in inside.iterdir())
    assert (tmp_path / "outside").read_bytes() == b"mine"


@pytest.mark.parametrize("force", [False, True])
def test_it_is_the_same_where_the_kernel_has_no_rename_without_replacement(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renameat2, "_renameat2", None)
    with FileSink(tmp_path, force=force) as inbox:
        inbox.store(OFFERED, arrive(inbox, OFFERED))
    assert visible(tmp_path) == ALL
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with FileSink(tmp_path, force=False) as inbox:
        offered: list[Offered] = [DirectoryInfo("g"), FileInfo("f/x", 1)]
        arrived = arrive(inbox, offered)
        (tmp_path / "g").mkdir()
        with pytest.raises(FileError, match="'g' already exists"):
            inbox.store(offered, arrived)
    assert visible(tmp_path) == [*ALL, "g"]


def test_a_mount_point_below_the_directory_is_an_error_that_changes_nothing(small: Path, tmp_path: Path) -> None:
    (small / "sub").mkdir()
    offered: list[Offered] = [FileInfo("a", 1), FileInfo("small/sub/x", 1)]
    with FileSink(tmp_path, force=True) as inbox:
        arrived = arrive(inbox, offered)
        with pytest.raises(FileError, match="'small/sub/x' cannot be stored: Invalid cross-device link"):
            inbox.store(offered, arrived)
        inbox.discard(offered)
    assert visible(tmp_path) == ["small", "small/sub"]


def test_only_one_process_gives_names_in_a_directory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final_names, "LOCK_S", 0.1)
    with FileSink(tmp_path, force=False) as inbox:
        arrived = arrive(inbox, OFFERED)
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            with (
                final_names.locked(fd),
                pytest.raises(FileError, match="another process has been storing files in this directory"),
            ):
                inbox.store(OFFERED, arrived)
        finally:
            os.close(fd)
        inbox.store(OFFERED, arrived)
    assert visible(tmp_path) == ALL
