"""Numbers of users: which are accepted, and the errors for others."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from punchlab.lab.errors import InputError
from punchlab.lab.inputs import numbers

VALIDATORS: tuple[Callable[[str, object], float], ...] = (
    numbers.share,
    numbers.percentage,
    numbers.deadline,
    numbers.attempts,
    numbers.skew_ms,
    numbers.trials,
    numbers.half_width,
    numbers.seed,
)
NONE_OF_THEM: tuple[object, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    10**5000,
    -(10**5000),
    True,
    False,
    "1",
    "",
    None,
    [],
    {},
    b"1",
    1j,
)


@pytest.mark.parametrize("validator", VALIDATORS)
@pytest.mark.parametrize("value", NONE_OF_THEM, ids=lambda value: repr(type(value)))
def test_an_invalid_number_is_one_line_that_names_the_field(
    validator: Callable[[str, object], float], value: object
) -> None:
    with pytest.raises(InputError, match=r"^size: ") as caught:
        validator("size", value)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("validator", "least", "most", "below", "above"),
    [
        (numbers.deadline, 0.001, 3600, 5e-324, 1e9),
        (numbers.half_width, 0.001, 0.499, 5e-324, 0.5),
        (numbers.attempts, 1, 1_000_000, 0, 1_000_001),
        (numbers.trials, 1, 1_000_000, -1, 10**9),
        (numbers.seed, -(2**63), 2**63 - 1, -(2**63) - 1, 2**63),
        (numbers.skew_ms, -60_000, 60_000.0, -60_001, 60_000.1),
        (numbers.percentage, 0, 100, -5e-324, 100.0001),
        (numbers.share, 0, 1, -0.1, 1.5),
    ],
)
def test_a_number_has_limits(
    validator: Callable[[str, object], float], least: float, most: float, below: float, above: float
) -> None:
    assert (validator("size", least), validator("size", most)) == (least, most)
    for value in (below, above):
        with pytest.raises(InputError, match=r"^size: .*; expected "):
            validator("size", value)


def test_negative_zero_is_zero() -> None:
    assert math.copysign(1, numbers.percentage("loss", -0.0)) == 1
    assert math.copysign(1, numbers.skew_ms("skew_ms", -0.0)) == 1


@pytest.mark.parametrize("whole", [numbers.attempts, numbers.trials, numbers.seed])
def test_a_whole_number_has_no_decimal_point(whole: Callable[[str, object], int]) -> None:
    with pytest.raises(InputError, match="a whole number"):
        whole("size", 5.0)


@pytest.mark.parametrize(
    ("word", "number"),
    [("5", 5), ("-1", -1), ("0.5", 0.5), ("1e3", 1000.0), ("1e400", math.inf), ("5" * 5000, math.inf)],
)
def test_a_word_is_converted_to_a_number(word: str, number: float) -> None:
    assert numbers.of_text(word) == number


@pytest.mark.parametrize("word", ["", "five", "1_000", "\uff15", "0x5", "1,5", "\udcff"])
def test_a_word_that_is_no_number_stays_a_word(word: str) -> None:
    assert numbers.of_text(word) == word
