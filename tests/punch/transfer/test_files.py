from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.errors import ArgumentError, ConnectionLostError
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.files.name_rules import FileError, check_name
from punchlab.punch.transfer.offer import FileInfo
from tests.punch.transfer.transfers import PARTIAL_NAMES

HOSTILE = [
    *("", ".", "..", "/", "/etc/passwd", "../x", "a/b", "a/../b", "x/", "..\\x", "C:\\x", "a\x00b", "\n", "a\x1b[2J"),
    *("a\x7f", "a\x85b", "a\u2028b", "invoice\u202efdp.exe", "\udcff", "x" * 256, "é" * 128),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(FileError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["a", ".hidden", "...", "a b.txt", "naïve-日本.pdf", "-rf", "x" * 255, "👩‍👧.png"])
def test_ordinary_names_pass(name: str) -> None:
    check_name(name)


@given(st.text(max_size=300))
def test_a_name_that_passes_stays_in_its_directory(name: str) -> None:
    try:
        check_name(name)
    except FileError:
        return
    directory = Path("/some/where")
    assert (directory / name).parent == directory
    assert os.path.normpath(directory / name) == str(directory / name)


def store(inbox: FileSink, name: str, content: bytes, *, executable: bool = False) -> None:
    info = FileInfo(name, len(content), executable)
    try:
        with inbox.create(info) as incoming:
            incoming.write(content)
            incoming.verify(hashlib.sha256(content).digest())
        inbox.store([info], [incoming])
    except FileError:
        inbox.discard([info])
        raise


@pytest.mark.parametrize("force", [False, True])
def test_a_file_arrives_whole_with_the_user_s_usual_mode(tmp_path: Path, force: bool) -> None:
    with FileSink(tmp_path, force=force) as inbox:
        store(inbox, "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_nothing_has_the_name_before_the_file_is_complete(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=False) as inbox, inbox.create(FileInfo("a", 2)) as incoming:
        incoming.write(b"x")
        assert not (tmp_path / "a").exists()


def test_an_existing_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with FileSink(tmp_path, force=False) as inbox, pytest.raises(FileError, match="--force"):
        inbox.check([FileInfo("a", 1)])
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_file_that_appears_during_the_transfer_is_not_overwritten(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=False) as inbox:
        inbox.check([FileInfo("a", 6)])
        (tmp_path / "a").write_bytes(b"mine")
        with pytest.raises(FileError, match="already exists"):
            store(inbox, "a", b"theirs")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symlink_in_the_way_is_not_followed(tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"mine")
    directory = tmp_path / "inbox"
    directory.mkdir()
    (directory / "a").symlink_to(target)
    with FileSink(directory, force=False) as inbox:
        with pytest.raises(FileError, match="already exists"):
            inbox.check([FileInfo("a", 1)])
        with pytest.raises(FileError, match="already exists"):
            store(inbox, "a", b"theirs")
    with FileSink(directory, force=True) as inbox:
        store(inbox, "a", b"theirs")
    assert not (directory / "a").is_symlink()
    assert target.exists() is not dangling
    assert dangling or target.read_bytes() == b"mine"


def test_force_overwrites_a_file_but_no_directory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "d").mkdir()
    with FileSink(tmp_path, force=True) as inbox:
        inbox.check([FileInfo("a", 3)])
        store(inbox, "a", b"new")
        with pytest.raises(FileError, match="is a directory"):
            inbox.check([FileInfo("d", 3)])
        with pytest.raises(FileError):
            store(inbox, "d", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


@pytest.mark.parametrize("content", [b"", b"content", b"contents and more"])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    def arrive(inbox: FileSink) -> None:
        with inbox.create(FileInfo("a", 8)) as incoming:
            incoming.write(content)
            incoming.verify(hashlib.sha256(b"contents").digest())

    with FileSink(tmp_path, force=False) as inbox, pytest.raises(FileError):
        arrive(inbox)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["symlink", "hard link", "directory", "fifo"])
def test_what_lies_in_the_way_of_an_unfinished_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    directory = tmp_path / "inbox"
    directory.mkdir()
    (directory / PARTIAL_NAMES.directory).mkdir()
    trap = directory / PARTIAL_NAMES.directory / PARTIAL_NAMES.name("a", 6)
    match kind:
        case "symlink":
            trap.symlink_to(mine)
        case "hard link":
            trap.hardlink_to(mine)
        case "directory":
            trap.mkdir()
        case "fifo":
            os.mkfifo(trap)
    with FileSink(directory, force=True, partial_names=PARTIAL_NAMES) as inbox:
        assert inbox.held(FileInfo("a", 6)) is None
        with pytest.raises(FileError, match="cannot be stored"):
            store(inbox, "a", b"theirs")
    assert mine.read_bytes() == b"mine"


def test_two_at_once_do_not_write_to_one_unfinished_file(tmp_path: Path) -> None:
    info = FileInfo("a", 6)
    with (
        FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as one,
        FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as other,
    ):
        with one.create(info) as incoming:
            incoming.write(b"the")
            assert other.held(info) is None
            with pytest.raises(FileError, match="another process"):
                other.create(info)
            other.discard([info])
            incoming.write(b"irs")
            incoming.verify(hashlib.sha256(b"theirs").digest())
        one.store([info], [incoming])
    assert (tmp_path / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("meddler", ["another receiver", "who is still at it", "an editor", "a link"])
def test_a_file_changed_after_it_was_received_gets_no_name(tmp_path: Path, meddler: str) -> None:
    info = FileInfo("a", 6)
    partial = tmp_path / PARTIAL_NAMES.directory / PARTIAL_NAMES.name(*info[:2])
    with contextlib.ExitStack() as stack:
        inbox, other = (
            stack.enter_context(FileSink(tmp_path, force=True, partial_names=PARTIAL_NAMES)) for _ in range(2)
        )
        with inbox.create(info) as incoming:
            incoming.write(b"theirs")
            incoming.verify(hashlib.sha256(b"theirs").digest())
        match meddler:
            case "another receiver":
                with contextlib.suppress(ConnectionLostError), other.create(info) as theft:
                    theft.write(b"oth")
                    raise ConnectionLostError("")
            case "who is still at it":
                stack.enter_context(other.create(info))
            case "an editor":
                partial.write_bytes(b"edited by hand")
            case "a link":
                partial.rename(tmp_path / "moved")
                partial.symlink_to("moved")
        with pytest.raises(FileError, match=r"has changed|another process|cannot be stored"):
            inbox.store([info], [incoming])
    assert not (tmp_path / "a").exists()


def test_no_file_can_take_the_name_of_an_unfinished_one(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=True) as inbox, pytest.raises(FileError, match="unfinished"):
        inbox.check([FileInfo(PARTIAL_NAMES.directory, 1)])


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=True) as inbox, pytest.raises(FileError, match="twice"):
        inbox.check([FileInfo("a", 1), FileInfo("a", 1)])


def test_more_than_fits_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=False) as inbox, pytest.raises(FileError, match="no space"):
        inbox.check([FileInfo("a", 1 << 62)])


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ArgumentError, match=r"^dir: "):
            FileSink(path, force=False)


def test_what_is_no_readable_regular_file_cannot_be_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "none", tmp_path / "fifo", Path("/dev/null"), tmp_path / "a\x00b"):
        with pytest.raises(ArgumentError, match=r"^FILE: "):
            FileSource([path])


def test_two_files_of_one_name_cannot_be_sent(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "a", tmp_path / "other" / "a"]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    with pytest.raises(ArgumentError, match="different names"):
        FileSource(paths)


def test_a_name_that_the_receiver_would_refuse_cannot_be_sent(tmp_path: Path) -> None:
    for name in ("a\nb", os.fsdecode(b"\xff")):
        (tmp_path / name).touch()
        with pytest.raises(ArgumentError, match="a valid name"):
            FileSource([tmp_path / name])


def test_names_and_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").touch()
    with FileSource([tmp_path / "a", tmp_path / "b"]) as source:
        assert source.offered == [FileInfo("a", 5), FileInfo("b", 0)]
        assert source.total == 5
