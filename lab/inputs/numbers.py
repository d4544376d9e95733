"""Validate numbers from the command line, campaign files or Python code.

Each validator takes the name of the field and the value, and returns the number. A number is an `int` or a `float`; a
`bool`, a string, nan and infinity are invalid. `of_text` converts a word of the command line. Negative zero becomes
zero. All validators raise `InputError`, which names the field, the value and the limits.
"""

from __future__ import annotations

from contextlib import suppress

from punchlab.lab.errors import InputError

SHORTEST_DEADLINE_S, LONGEST_DEADLINE_S = 0.001, 3600.0
"""Limits of the deadline of a punch."""
SHORTEST_BUDGET_S, LONGEST_BUDGET_S = 0.001, 1000 * 3600.0
"""Limits of the duration of a campaign."""
MOST_TRIALS = 1_000_000
"""The maximum number of trials of a cell."""
MOST_JOBS = 1000
"""The maximum number of active trials or NATs."""
MOST_ATTEMPTS = 1_000_000
"""The maximum number of connect() calls per candidate."""
LARGEST_SKEW_MS = 60_000.0
"""The maximum absolute start skew."""
NARROWEST_HALF_WIDTH, WIDEST_HALF_WIDTH = 0.001, 0.5
"""Limits of the half-width of a confidence interval. The upper limit is excluded; the lower one needs 960,000
trials.
"""
LARGEST_SEED = 2**63 - 1


def number(field: str, value: object, *, least: float, most: float, unit: str = "a number") -> float:
    """Return a number from `least` to `most`. `unit` is the term in the error, such as `a percentage`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return float(value) + 0.0  # -0.0 + 0.0 is 0.0
    raise InputError(field, value, f"{unit} from {least:g} to {most:g}")


def whole(field: str, value: object, *, least: int, most: int, unit: str = "a whole number") -> int:
    """Return a whole number from `least` to `most`. `5.0` is invalid."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise InputError(field, value, f"{unit} from {least} to {most}")


def seconds(field: str, value: object, *, least: float, most: float) -> float:
    """Return a number of seconds from `least` to `most`."""
    return number(field, value, least=least, most=most, unit="a number of seconds")


def share(field: str, value: object) -> float:
    """Return a share from 0 to 1."""
    return number(field, value, least=0, most=1, unit="a share")


def percentage(field: str, value: object) -> float:
    """Return a percentage from 0 to 100."""
    return number(field, value, least=0, most=100, unit="a percentage")


def deadline(field: str, value: object) -> float:
    """Return the deadline of a punch in seconds: 0.001 to 3600."""
    return seconds(field, value, least=SHORTEST_DEADLINE_S, most=LONGEST_DEADLINE_S)


def attempts(field: str, value: object) -> int:
    """Return the maximum number of connect() calls per candidate: 1 to 1,000,000."""
    return whole(field, value, least=1, most=MOST_ATTEMPTS)


def skew_ms(field: str, value: object) -> float:
    """Return how much later the second host starts, in milliseconds: -60,000 to 60,000."""
    return number(field, value, least=-LARGEST_SKEW_MS, most=LARGEST_SKEW_MS, unit="milliseconds")


def jobs(field: str, value: object) -> int:
    """Return the maximum number of active trials or NATs: 1 to 1,000."""
    return whole(field, value, least=1, most=MOST_JOBS)


def trials(field: str, value: object) -> int:
    """Return the number of trials of a cell: 1 to 1,000,000."""
    return whole(field, value, least=1, most=MOST_TRIALS)


def half_width(field: str, value: object) -> float:
    """Return half the width of the confidence interval of a rate: 0.001 to 0.5, 0.5 excluded."""
    if value == WIDEST_HALF_WIDTH:
        raise InputError(field, value, f"a number below {WIDEST_HALF_WIDTH:g}")
    return number(field, value, least=NARROWEST_HALF_WIDTH, most=WIDEST_HALF_WIDTH)


def seed(field: str, value: object) -> int:
    """Return the seed of random draws: a signed 64-bit integer."""
    return whole(field, value, least=-LARGEST_SEED - 1, most=LARGEST_SEED)


def of_text(word: str) -> int | float | str:
    """Return the number that a word of the command line represents, else the word.

    A whole number with more digits than Python converts to `int` becomes infinity, which every validator rejects.
    """
    if "_" not in word and word.isascii():
        for kind in (int, float):
            with suppress(ValueError):
                return kind(word)
    return word
