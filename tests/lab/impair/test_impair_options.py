"""Mininet's link options are converted to an impairment, or one clear error."""

from __future__ import annotations

import pytest

from punchlab.lab.errors import InputError
from punchlab.lab.impair import Impairment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("1s", 1),
        ("1sec", 1),
        ("2secs", 2),
        ("500us", 0.0005),
        ("500usecs", 0.0005),
        ("1.5 msec", 0.0015),
        (".5ms", 0.0005),
        ("250ns", 2.5e-7),
        ("0ms", 0),
        ("60s", 60),
    ],
)
def test_delay_is_a_duration_as_tc_writes_it(text: str, seconds: float) -> None:
    assert Impairment.from_options({"delay": text}).delay_s == pytest.approx(seconds)


def test_loss_is_in_percent_and_bandwidth_in_megabits() -> None:
    options = {"delay": "20ms", "jitter": "5ms", "loss": 2.5, "bw": 100}
    assert Impairment.from_options(options) == Impairment(0.02, 0.005, 0.025, 100e6)


def test_numbers_may_be_text_as_on_a_command_line() -> None:
    assert Impairment.from_options({"loss": "1", "bw": "0.5"}) == Impairment(loss=0.01, bandwidth=0.5e6)


def test_absent_options_impair_nothing() -> None:
    assert not Impairment.from_options({})
    assert not Impairment.from_options({"delay": None, "jitter": None, "loss": None, "bw": None})
    assert not Impairment.from_options({"delay": "0ms", "loss": 0})
    assert Impairment.from_options({"loss": 1})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("delay", "20", "unit"),
        ("delay", 20, "unit"),
        ("delay", "fast", "unit"),
        ("delay", "-1ms", "unit"),
        ("delay", "1e9ms", "unit"),
        ("delay", "61s", "at most 60 s"),
        ("delay", "20 ms 5ms", "unit"),
        ("delay", True, "unit"),
        ("jitter", "3", "unit"),
        ("jitter", "3s", "at most 2 s"),
        ("jitter", "5ms", "at most the delay"),
        ("loss", 101, "0 to 100"),
        ("loss", -1, "0 to 100"),
        ("loss", "1%", "0 to 100"),
        ("loss", True, "0 to 100"),
        ("loss", float("nan"), "0 to 100"),
        ("bw", 0, "Mbit/s"),
        ("bw", "100M", "Mbit/s"),
        ("bw", float("inf"), "Mbit/s"),
        ("bw", [1], "Mbit/s"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(option: str, value: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        Impairment.from_options({option: value})
    assert (caught.value.field, caught.value.value) == (option, value)


def test_an_unknown_option_is_rejected() -> None:
    with pytest.raises(InputError, match="'dealy' cannot be used; expected one of delay, jitter, loss, bw"):
        Impairment.from_options({"dealy": "20ms"})


@pytest.mark.parametrize(
    "values",
    [{"delay_s": -1}, {"delay_s": float("nan")}, {"jitter_s": 0.1}, {"loss": 1.1}, {"bandwidth": 0}, {"delay_s": 100}],
)
def test_an_impossible_impairment_is_rejected(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Impairment(**values)
