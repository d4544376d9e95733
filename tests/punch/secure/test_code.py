from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.errors import ArgumentError
from punchlab.punch.frames import SESSION_ID
from punchlab.punch.secure.code import SECRET_WORDS, WORDS, Code


def _mistakes(a: str, b: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_the_words_are_256_and_hard_to_confuse() -> None:
    assert len(set(WORDS)) == 256
    assert len({word[:4] for word in WORDS}) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)
    assert min(_mistakes(a, b) for a, b in combinations(WORDS, 2)) >= 3


def test_a_fresh_code_reads_back_as_itself() -> None:
    code = Code.generate()
    assert Code.parse(str(code)) == code
    assert len(code.secret.split("-")) == SECRET_WORDS
    assert SESSION_ID.fullmatch(code.session)


def test_fresh_codes_differ() -> None:
    assert len({str(Code.generate()) for _ in range(50)}) == 50


def test_case_and_blanks_do_not_matter() -> None:
    assert str(Code.parse("  K7X2MQ-Amber-FALCON-tulip\n")) == "k7x2mq-amber-falcon-tulip"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "k7x2mq",
        "k7x2mq-amber-falcon",
        "k7x2mq-amber-falcon-tulip-tulip",
        "k7x2mq-amber-falcon-ambre",
        "k7-amber-falcon-tulip",
        "k7x2mq_amber_falcon_tulip",
        "k7x/mq-amber-falcon-tulip",
        "é7x2mq-amber-falcon-tulip",
        "x" * 10_000,
    ],
)
def test_a_bad_code_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^code: ") as caught:
        Code.parse(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_a_mistyped_word_gets_a_hint() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'falcon'"):
        Code.parse("k7x2mq-amber-falkon-tulip")


def test_the_secret_is_not_in_the_repr() -> None:
    assert "falcon" not in repr(Code.parse("k7x2mq-amber-falcon-tulip"))


@given(st.text())
def test_whatever_is_typed_parses_or_is_refused(text: str) -> None:
    try:
        code = Code.parse(text)
    except ArgumentError:
        return
    assert Code.parse(str(code)) == code
