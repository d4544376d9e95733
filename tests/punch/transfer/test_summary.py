"""An offer as a user sees it before accepting: no hidden file is lost in it."""

from __future__ import annotations

import pytest

from punchlab.punch.sentences import offer_text
from punchlab.punch.transfer.offer import DirectoryInfo, FileInfo, Offered, StreamInfo
from punchlab.punch.transfer.summary import LISTED, summarize

MANY: list[Offered] = [FileInfo(f"photos/{number:04}/x.jpg", 1000) for number in range(4000)]


def text(*offered: Offered) -> list[str]:
    return offer_text(summarize(offered)).splitlines()


@pytest.mark.parametrize("name", ["photos/2000/.ssh/authorized_keys", ".bashrc", "x/y.desktop", "a/.git/hooks/update"])
def test_one_sensitive_file_among_thousands_comes_first(name: str) -> None:
    lines = text(*MANY[:2000], FileInfo(name, 397), *MANY[2000:])
    assert lines[0].startswith("Offered: 4001 files, ")
    assert "1 sensitive" in lines[0]
    assert lines[1].startswith("! sensitive")
    assert lines[1].endswith(f"397 bytes  {name}")


def test_hidden_ones_come_before_the_rest_and_all_are_counted() -> None:
    hidden = [FileInfo(f"d/{number}/.x", 1) for number in range(LISTED + 5)]
    lines = text(*MANY, *hidden, FileInfo("zz", 2))
    assert f"{LISTED + 5} hidden" in lines[0]
    assert all(line.startswith("! hidden") for line in lines[1 : LISTED + 1])
    assert "! and 5 more hidden" in lines
    assert len(lines) < 3 * LISTED + 5


def test_hidden_files_do_not_hide_a_sensitive_one() -> None:
    noise = [FileInfo(f".a{number}", 1) for number in range(5000)]
    lines = text(*noise, FileInfo(".ssh/authorized_keys", 1))
    assert lines[1].endswith("  .ssh/authorized_keys")
    assert "! and 4980 more hidden" in lines


def test_sensitive_files_beyond_the_list_are_counted() -> None:
    lines = text(*(FileInfo(f"{number:03}.desktop", 1) for number in range(100)))
    assert "100 sensitive" in lines[0]
    assert "! and 80 more sensitive" in lines


def test_a_tree_is_one_line_with_its_files_and_size() -> None:
    lines = text(*MANY, DirectoryInfo("empty"), FileInfo("run", 1, executable=True))
    assert [" ".join(line.split()) for line in lines] == [
        "Offered: 4001 files, 4002 directories, 4.0 MB, 1 executable",
        "0 files, 0 bytes empty/",
        "4000 files, 4.0 MB photos/",
        "executable 1 bytes run",
    ]


def test_a_name_can_imitate_nothing_that_comes_before_it_and_no_other_line() -> None:
    (_, line) = text(FileInfo("a\nOffered: nothing\x1b[2J\u200e", 5))
    assert line.endswith(r"5 bytes  a\nOffered: nothing\x1b[2J\u200e")


def test_of_a_long_name_the_end_is_shown() -> None:
    (_, line) = text(FileInfo(f"{'x' * 240}.desktop", 5))
    assert line.endswith("x.desktop")
    assert " ... " in line
    assert len(line) < 180


def test_a_stream_has_no_size() -> None:
    assert text(StreamInfo(".profile"))[0] == (
        "Offered: 1 file, 0 directories, an unknown number of bytes, 1 sensitive, 1 hidden"
    )
