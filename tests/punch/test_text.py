from __future__ import annotations

import io
import json
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from punchlab.punch import stdio
from punchlab.punch.errors import ArgumentError, PunchError, PunchFailedError
from punchlab.punch.events import human_reporter, json_reporter
from punchlab.punch.text import LONGEST, MOST_MARKS, printable, printable_lines, safe_json, shown
from punchlab.punch.transfer.files.name_rules import FileError, check_name
from tests.plain import ATTACKS, HOSTILE, assert_plain, assert_plain_line, is_plain

ANY_TEXT = st.text(st.characters() | st.sampled_from("#[:\x1b\u202e\n\udcff"), max_size=60)


def test_no_unsafe_character_is_unescaped() -> None:
    text = "".join(map(chr, range(sys.maxunicode + 1)))
    assert all(map(is_plain, printable(text, None)))
    assert all(map(is_plain, safe_json(json.dumps(text, ensure_ascii=False))))


@given(ANY_TEXT)
@example("####[a")
@example("##\udcff[")
@example("a" + "\u0301" * 30 + "\u202e" + "\u0301" * 30)
@example("x" * (LONGEST - 8) + "\u0301" * 10)
@example("x" * (LONGEST - 1) + "\x1b")
def test_printable_is_one_line_and_idempotent(text: str) -> None:
    once = printable(text)
    assert_plain(once.replace("::", ""))  # `::` is a command only at the start of a line of output
    assert "\n" not in once
    assert len(once) <= LONGEST
    assert printable(once) == once


@pytest.mark.parametrize(
    "text", ["", "a", "naïve 日本語 (€)", "a\u3000b", "10:00\u202fAM", "C:\\new", "a::b", "# [x]", "é"]
)
def test_plain_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


def test_escapes_are_readable() -> None:
    assert printable("a\x1b[1m\tb\u202e\U000e0041\udcff ##[error]") == (
        r"a\x1b[1m\tb\u202e\U000e0041\udcff #\u0023[error]"
    )
    assert printable("x" * 50, 10) == f"{'x' * 9}…"


MARK, ENCLOSING, FAR_MARK = "\u0301", "\u20dd", "\U00010a0f"


def test_a_stack_of_marks_is_shown_as_escapes_beyond_the_first_ones() -> None:
    for mark, escape in ((MARK, r"\u0301"), (ENCLOSING, r"\u20dd"), (FAR_MARK, r"\U00010a0f")):
        once = printable(f"a{mark * 8}b{mark}")
        assert once == f"a{mark * MOST_MARKS}{escape * 3}b{mark}"
        assert printable(once) == once
        document = json.dumps(f"a{mark * 8}b", ensure_ascii=False)
        assert safe_json(document).count(mark) == MOST_MARKS
        assert json.loads(safe_json(document)) == json.loads(document)
    assert printable(MARK * 1000, None).count(MARK) == MOST_MARKS
    assert printable_lines(f"{MARK * 9}\n{MARK * 9}").count(MARK) == 2 * MOST_MARKS
    assert len(printable("a" + MARK * 5000)) <= LONGEST


@pytest.mark.parametrize("text", ["e\u0323\u0302", "\u05e9\u05c1\u05bc\u05b8\u0596\u05bd", "\u0e01\u0e35\u0e48" * 20])
def test_languages_keep_the_marks_that_they_need(text: str) -> None:
    """Vietnamese, Hebrew with everything on one letter, Thai."""
    assert printable(text) == text
    check_name(text)


@pytest.mark.parametrize("between", ["", "\u200d", "\ufe0f"])
def test_a_name_with_a_stack_of_marks_is_refused(between: str) -> None:
    check_name("a" + (MARK + between) * MOST_MARKS + "b" + MARK)
    with pytest.raises(FileError, match="more than 5 combining marks in a row") as caught:
        check_name("a" + (MARK + between) * (MOST_MARKS + 1))
    assert str(caught.value).isascii()


@given(ANY_TEXT)
def test_printable_lines_keeps_lines(text: str) -> None:
    assert printable_lines(text).split("\n") == [printable(line) for line in text.split("\n")]


@given(st.recursive(ANY_TEXT | st.integers() | st.none(), lambda inner: st.dictionaries(ANY_TEXT, inner, max_size=3)))
def test_safe_json_is_equivalent_and_plain(value: object) -> None:
    for ascii_only in (True, False):
        document = safe_json(json.dumps(value, ensure_ascii=ascii_only))
        assert_plain(document.replace("::", ""))
        assert json.loads(document) == value


@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {HOSTILE: 1}, 10**5000, HOSTILE.encode()], ids=type)
def test_any_value_is_shown_within_bounds(value: object) -> None:
    assert_plain(shown(value))
    assert len(shown(value)) <= 300


@pytest.mark.parametrize(
    "error",
    [
        PunchError(HOSTILE),
        ArgumentError(HOSTILE, HOSTILE, HOSTILE),
        PunchFailedError("refused", HOSTILE),
        PunchFailedError("refused", "x" * 10**6),
    ],
)
def test_an_error_is_one_plain_line(error: PunchError) -> None:
    assert_plain_line(f"{error}\n")
    assert len(str(error)) <= LONGEST


def written(write: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what standard output gets while `write` writes to it."""
    below = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", below)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    stdio.settle()
    stdio.settle()  # the second call changes nothing
    assert stdio.unguarded(sys.stdout) is below
    write()
    assert isinstance(below.buffer, io.BytesIO)
    return below.buffer.getvalue().decode()


def test_a_standard_stream_writes_only_safe_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        for attack in (*ATTACKS, HOSTILE):
            print(attack, "naïve\t日本語", sep="\n")

    text = written(write, monkeypatch)
    assert_plain(text)
    assert text.count("naïve\t日本語\n") == len(ATTACKS) + 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["::error::x"], r"\x3a:error::x"),
        (["a\n", "\xa0 ::error::x"], "a\n\xa0 " + r"\x3a:error::x"),
        (["  ", "::error::x"], r"  \x3a:error::x"),
        (["a\n\n::error::x"], "a\n\n" + r"\x3a:error::x"),
        (["at ", "::1"], "at ::1"),
        (["at ", "::1\n::1"], "at ::1\n" + r"\x3a:1"),
        (["a ::error::x"], "a ::error::x"),
    ],
)
def test_a_line_that_begins_with_a_command_is_disarmed(
    parts: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        for part in parts:
            sys.stdout.write(part)

    assert written(write, monkeypatch) == expected


def test_sentences_get_printable_fields_and_json_the_original_ones() -> None:
    received: list[object] = []
    fields = {"reason": HOSTILE, "names": [HOSTILE], "size": 3, HOSTILE: ("a",)}
    human_reporter({"event": lambda given: received.append(given)}, io.StringIO())("event", **fields)
    assert received == [
        {"reason": printable(HOSTILE), "names": [printable(HOSTILE)], "size": 3, printable(HOSTILE): ["a"]}
    ]
    stream = io.StringIO()
    json_reporter(stream)("event", **fields)
    assert json.loads(stream.getvalue())["reason"] == HOSTILE
    assert stream.getvalue().isascii()


@pytest.mark.parametrize(
    "char",
    [
        *("\u200e", "\u200f", "\u061c", "\u202a", "\u202e", "\u2066", "\u2069"),
        *("\x00", "\t", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"),
        *("\u00ad", "\u200b", "\u2060", "\ufeff", "\u034f", "\u115f", "\u3164", "\uffa0", "\U000e0041"),
        *("\ufdd0", "\ufffe", "\U0010ffff", "\udcff"),
    ],
)
def test_a_name_with_invisible_characters_is_refused(char: str) -> None:
    for name in (char, f"a{char}.txt", f"{char}a", f"a{char}"):
        with pytest.raises(FileError) as caught:
            check_name(name)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d👧.png",
        "❤\ufe0f",
        "葛\U000e0100城",
        "\u0600",
        "Screenshot 10.00\u202fAM.png",
        "a\u3000b",
    ],
)
def test_a_name_may_have_the_joiners_and_spaces_of_its_language(name: str) -> None:
    check_name(name)


def test_names_have_no_bidirectional_control_of_any_kind() -> None:
    bidi = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    controls = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.bidirectional(chr(code)) in bidi}
    for char in controls | set("\u200e\u200f\u061c"):
        with pytest.raises(FileError):
            check_name(f"a{char}b")
