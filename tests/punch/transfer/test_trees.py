"""Directories in a transfer: their contents, what is skipped, and names that could lead outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.errors import ArgumentError, TamperedError
from punchlab.punch.transfer.files.file_sink import FileSink, Incoming
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.files.name_rules import MAX_DEPTH, MAX_PATH_BYTES, FileError, check_path
from punchlab.punch.transfer.offer import (
    MAX_ENTRIES,
    DirectoryInfo,
    Entries,
    FileInfo,
    Offered,
    StreamInfo,
    count_directories,
    read_offer,
    write_offer,
)
from tests.punch.transfer.transfers import PARTIAL_NAMES

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).digest()


def tree(directory: Path, *names: str) -> None:
    """Create files with these names, and directories for those with a trailing slash."""
    for name in names:
        path = directory / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(CONTENT)


def names_in(directory: Path) -> list[str]:
    """Return everything below a directory; directories have a trailing slash."""
    return sorted(f"{path.relative_to(directory)}{'/' * path.is_dir()}" for path in directory.rglob("*"))


def store(inbox: FileSink, *offered: Offered) -> None:
    """Receive it as a transfer does."""
    inbox.check(offered)
    arrived: list[Incoming] = []
    for info in offered:
        if not isinstance(info, DirectoryInfo):
            with inbox.create(info) as incoming:
                incoming.write(CONTENT)
                incoming.verify(SHA256)
            arrived.append(incoming)
    inbox.store(offered, arrived)


def file(name: str, *, executable: bool = False) -> FileInfo:
    return FileInfo(name, len(CONTENT), executable)


HOSTILE = [
    *("/", "/etc", "a/", "a//b", "..", "../x", "a/..", "a/../b", "a/../../b", "./a", "a/.", "a\\..\\b", "a/b\\c"),
    *("a/b\n", "a/\x1b[2Jb", "a/\x00", "a/\udcff", "a\u202eb/c", f"a/{'x' * 256}", "/".join("a" * (MAX_DEPTH + 1))),
    *("/".join(["x" * 255] * 5), f"a/{PARTIAL_NAMES.directory}", f"{PARTIAL_NAMES.directory}/a"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths_are_refused_in_one_printable_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError) as caught:
        check_path(name)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300
    for info in (FileInfo(name, 1), DirectoryInfo(name), StreamInfo(name)):
        with FileSink(tmp_path, force=True) as inbox, pytest.raises(FileError):
            inbox.check([info])


@given(st.lists(st.text(alphabet=st.characters() | st.sampled_from("./\\"), max_size=20), max_size=8).map("/".join))
def test_a_path_that_passes_stays_below_its_directory(name: str) -> None:
    try:
        check_path(name)
    except FileError:
        return
    assert len(name.encode()) <= MAX_PATH_BYTES
    path = os.path.normpath(f"/some/where/{name}")
    assert path == f"/some/where/{name}"


@pytest.mark.parametrize(
    "offered",
    [
        [file("a"), file("a")],
        [file("a"), DirectoryInfo("a")],
        [file("a/b"), file("a")],
        [file("a/b/c"), file("a!"), file("a/b")],
        [DirectoryInfo("a"), file("a!/x"), file("a/x")],
    ],
)
def test_a_name_is_offered_for_one_thing(tmp_path: Path, offered: list[Offered]) -> None:
    with FileSink(tmp_path, force=True) as inbox, pytest.raises(FileError, match=r"'a(/b)?' is offered"):
        inbox.check(offered)


@pytest.mark.parametrize("info", [file("ä/b c"), file("a", executable=True), DirectoryInfo("a/b"), StreamInfo("a")])
@pytest.mark.parametrize("last", [True, False])
def test_offers_are_read_as_they_were_written(info: Offered, last: bool) -> None:
    assert read_offer(write_offer(info, last=last)) == (info, last)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("file") | st.just("directory")
FIELDS = st.sampled_from(["name", "size", "kind", "executable", "last"])


@given(st.binary() | st.dictionaries(FIELDS, VALUES | st.lists(VALUES)).map(lambda each: json.dumps(each).encode()))
def test_an_offer_can_be_read_or_is_refused(payload: bytes) -> None:
    try:
        info, last = read_offer(payload)
    except TamperedError:
        return
    assert read_offer(write_offer(info, last=last)) == (info, last)


def test_a_directory_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    tree(tmp_path, "d/b/c/deep", "d/a", "d/.hidden", "d/empty/er/", "d/b/ç d", "file")
    (tmp_path / "d" / "a").chmod(0o750)
    with FileSource([tmp_path / "d", tmp_path / "file"]) as source:
        assert source.offered == [
            file("d/.hidden"),
            file("d/a", executable=True),
            file("d/b/c/deep"),
            file("d/b/ç d"),
            DirectoryInfo("d/empty/er"),
            file("file"),
        ]
        assert source.total == 5 * len(CONTENT)
        for index, info, stream in source.contents():
            assert source.offered[index] == info
            assert stream.read() == CONTENT


@pytest.mark.parametrize(("word", "name"), [(".", "d"), ("..", "parent"), ("../d/", "d"), ("../link", "link")])
def test_a_directory_is_called_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, name: str
) -> None:
    tree(tmp_path, "parent/d/x")
    (tmp_path / "parent" / "link").symlink_to("d")
    monkeypatch.chdir(tmp_path / "parent" / "d")
    with FileSource([Path(word)]) as source:
        assert {info.name.partition("/")[0] for info in source.offered} == {name}


def test_the_root_has_no_name_to_send_it_by() -> None:
    with pytest.raises(ArgumentError, match="a valid name"):
        FileSource([Path("/")])


def test_special_files_in_a_directory_are_skipped_and_listed(tmp_path: Path) -> None:
    tree(tmp_path, "secret/x", "d/a", "d/only/")
    (tmp_path / "d" / "to file").symlink_to("../secret/x")
    (tmp_path / "d" / "to directory").symlink_to("../secret")
    (tmp_path / "d" / "only" / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d" / "fifo")
    tree(tmp_path, f"d/{PARTIAL_NAMES.directory}/x")
    with FileSource([tmp_path / "d"]) as source:
        assert source.offered == [file("d/a"), DirectoryInfo("d/only")]
        assert {each.name: each.reason for each in source.skipped} == {
            "d/to file": "a symbolic link",
            "d/to directory": "a symbolic link",
            "d/only/dangling": "a symbolic link",
            "d/fifo": "a FIFO",
            f"d/{PARTIAL_NAMES.directory}": "an unfinished file of punch",
        }


@pytest.mark.parametrize("name", ["d/a\nb", "d/a\\b/x", "d/" + "/".join("a" * MAX_DEPTH)])
def test_a_directory_with_a_name_in_it_that_cannot_be_sent_is_refused(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "d/good", name)
    with pytest.raises(ArgumentError, match="a valid name"):
        FileSource([tmp_path / "d"])


def test_more_files_than_are_allowed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(MAX_ENTRIES + 1):
        (tmp_path / "d" / str(number)).symlink_to("x")
    with pytest.raises(ArgumentError, match=f"at most {MAX_ENTRIES}"):
        FileSource([tmp_path / "d"])


def test_more_directories_than_are_allowed_are_refused_even_with_few_files(tmp_path: Path) -> None:
    directories = "/".join(["x"] * (MAX_DEPTH - 3))
    for number in range(MAX_ENTRIES // (MAX_DEPTH - 3) + 1):
        (tmp_path / "d" / str(number) / directories).mkdir(parents=True)
    with pytest.raises(ArgumentError, match=f"at most {MAX_ENTRIES} files and directories"):
        FileSource([tmp_path / "d"])


def test_directories_above_a_file_are_counted_once() -> None:
    entries = Entries()
    for name in ("d/a/1", "d/a/2", "d/b", "e"):
        entries.add(name)
    assert len(entries) == len({"d", "d/a", "d/a/1", "d/a/2", "d/b", "e"})
    assert count_directories([file("d/a/1"), file("d/a/2"), DirectoryInfo("d/b"), file("e")]) == 3


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"!")


def _replace_by_a_link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def _replace_by_another(path: Path) -> None:
    found = path.stat()
    path.rename(path.parent / "elsewhere")
    path.write_bytes(CONTENT)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [_append, _replace_by_a_link, _replace_by_another, Path.unlink])
def test_what_was_offered_is_what_is_sent_or_nothing(tmp_path: Path, change: Callable[[Path], None]) -> None:
    tree(tmp_path, "d/x/a")
    with FileSource([tmp_path / "d"]) as source:
        change(tmp_path / "d" / "x" / "a")
        with pytest.raises(FileError, match=r"'d/x/a' (has changed|cannot be read)"):
            next(source.contents())


def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    tree(tmp_path, "d/x/a")
    with FileSource([tmp_path / "d"]) as source:
        (tmp_path / "d" / "x").rename(tmp_path / "moved")
        (tmp_path / "d" / "x").symlink_to(tmp_path / "moved")
        with pytest.raises(FileError, match="'d/x/a' cannot be read"):
            next(source.contents())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_one_file_at_a_time_is_open(tmp_path: Path) -> None:
    tree(tmp_path, *(f"d/{number}" for number in range(50)))
    before = open_descriptors()
    with FileSource([tmp_path / "d"]) as source:
        for _ in source.contents():
            assert open_descriptors() == before + 1
    assert open_descriptors() == before


@pytest.mark.parametrize("force", [False, True])
def test_a_tree_arrives_with_its_directories_and_modes(tmp_path: Path, force: bool) -> None:
    directories = [DirectoryInfo("d/e/f"), DirectoryInfo("h")]
    with FileSink(tmp_path, force=force) as inbox:
        store(inbox, file("d/a/b", executable=True), file("d/a/c"), *directories, file("g"))
        store(inbox)  # nothing is new
    assert names_in(tmp_path) == ["d/", "d/a/", "d/a/b", "d/a/c", "d/e/", "d/e/f/", "g", "h/"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "d/a/b").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "d/a/c").stat().st_mode) == 0o666 & ~umask


def test_who_may_not_read_may_not_execute(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with FileSink(tmp_path, force=False) as inbox:
            store(inbox, file("a", executable=True))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


@pytest.mark.parametrize("there", ["d/", "d/other", "d"])
def test_without_force_nothing_may_have_the_name_of_the_directory(tmp_path: Path, there: str) -> None:
    tree(tmp_path, there)
    before = names_in(tmp_path)
    with FileSink(tmp_path, force=False) as inbox, pytest.raises(FileError, match="'d' already exists"):
        store(inbox, file("d/a"))
    assert names_in(tmp_path) == before


def test_with_force_directories_are_filled_up(tmp_path: Path) -> None:
    tree(tmp_path, "d/sub/mine", "d/a")
    (tmp_path / "d/a").write_bytes(b"old")
    with FileSink(tmp_path, force=True) as inbox:
        store(inbox, file("d/a"), file("d/sub/new"), DirectoryInfo("d/sub/empty"))
    assert names_in(tmp_path) == ["d/", "d/a", "d/sub/", "d/sub/empty/", "d/sub/mine", "d/sub/new"]
    assert (tmp_path / "d/a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("there", "offered"),
    [("d/a", file("d/a/b")), ("d/a/", file("d/a")), ("d/a", DirectoryInfo("d/a")), ("d", DirectoryInfo("d"))],
)
def test_not_even_with_force_is_a_directory_swapped_for_a_file(tmp_path: Path, there: str, offered: Offered) -> None:
    tree(tmp_path, there)
    before = names_in(tmp_path)
    with FileSink(tmp_path, force=True) as inbox, pytest.raises(FileError):
        store(inbox, offered)
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("offered", [file("d/sub/a"), DirectoryInfo("d/sub/e")])
def test_a_link_on_the_way_down_is_not_followed(tmp_path: Path, force: bool, depth: int, offered: Offered) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "in"
    tree(tmp_path, "outside/sub/")
    inside.mkdir()
    if depth == 1:
        (inside / "d").symlink_to(outside)
    else:
        (inside / "d").mkdir()
        (inside / "d" / "sub").symlink_to(outside)
    with FileSink(inside, force=force) as inbox, pytest.raises(FileError):
        inbox.check([offered])
    assert names_in(outside) == ["sub/"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("offered", [file("d/sub/a"), DirectoryInfo("d/sub/e")])
def test_a_link_that_is_swapped_in_after_the_check_is_not_followed(
    tmp_path: Path, force: bool, depth: int, offered: Offered
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "in"
    tree(tmp_path, "outside/sub/")
    inside.mkdir()
    with FileSink(inside, force=force) as inbox:
        inbox.check([offered])
        arrived: list[Incoming] = []
        if isinstance(offered, FileInfo):
            with inbox.create(offered) as incoming:
                incoming.write(CONTENT)
                incoming.verify(SHA256)
            arrived.append(incoming)
        if depth == 1:
            (inside / "d").symlink_to(outside)
        else:
            (inside / "d").mkdir()
            (inside / "d" / "sub").symlink_to(outside)
        with pytest.raises(FileError):
            inbox.store([offered], arrived)
    assert names_in(outside) == ["sub/"]


PARTS = st.sampled_from(["to outside", "to file", "d", "e", "new", "..", ".", ""])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
OFFERS = st.lists(st.builds(file, NAMES) | st.builds(DirectoryInfo, NAMES), min_size=1, max_size=4)


@given(OFFERS, st.booleans())
def test_whatever_is_offered_and_whatever_links_there_are_nothing_outside_changes(
    offered: list[Offered], force: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outside, inside = Path(folder) / "outside", Path(folder) / "in"
        tree(Path(folder), "outside/file", "in/d/e/", "in/e")
        for place in (inside, inside / "d", inside / "d" / "e"):
            (place / "to outside").symlink_to(outside)
            (place / "to file").symlink_to(outside / "file")
        (outside / "file").write_bytes(b"mine")
        with FileSink(inside, force=force) as inbox:
            with contextlib.suppress(FileError):
                store(inbox, *offered)
            inbox.discard([info for info in offered if isinstance(info, FileInfo)])
        assert names_in(outside) == ["file"]
        assert (outside / "file").read_bytes() == b"mine"
        assert {path.name for path in Path(folder).iterdir()} == {"outside", "in"}
        if not force:
            assert (inside / "e").read_bytes() == CONTENT
            assert names_in(inside / "d") == sorted(["e/", "to file", "to outside/", "e/to file", "e/to outside/"])


def test_unfinished_files_are_not_in_the_offered_directory(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
        with inbox.create(file("d/a")) as incoming:
            incoming.write(CONTENT)
            incoming.verify(SHA256)
        assert names_in(tmp_path) == [
            f"{PARTIAL_NAMES.directory}/",
            f"{PARTIAL_NAMES.directory}/{PARTIAL_NAMES.name('d/a', len(CONTENT))}",
        ]
        inbox.discard([file("d/a")])
    assert names_in(tmp_path) == []
