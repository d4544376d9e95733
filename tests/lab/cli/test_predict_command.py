"""`punchlab predict`: the oracle asked without a lab."""

from __future__ import annotations

import json

import pytest

from tests.commands import assert_one_clear_line, punchlab, run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nat-b", "symmetric"], "fails: B's mapping depends on the destination, and A filters by address and port"),
        (["--delay", "50ms"], "direct: the SYNs cross between the NATs; it takes at least 100 ms from the first SYN"),
        (
            ["--unsolicited", "reset", "--delay", "20ms", "--skew-ms", "-30", "--max-attempts", "1"],
            "fails: the SYNs must cross, but they are 30.0 ms apart with a delay of 20.0 ms: no attempts are left",
        ),
        (["--unsolicited", "admin-prohibited", "--delay", "30ms", "--skew-ms", "300"], "depends (4"),
    ],
)
def test_the_answer_is_one_line(words: list[str], said: str) -> None:
    done = run(punchlab("predict", *words))
    assert done.returncode == 0, done
    (line,) = done.stdout.splitlines()
    assert line.startswith(said)


def test_json_holds_what_was_asked_and_the_prediction_as_a_record_has_it() -> None:
    words = ["--nat-a", "full_cone", "--nat-b", "symmetric", "--skew-ms", "5", "--loss", "1", "--json"]
    done = run(punchlab("predict", *words))
    answer = json.loads(done.stdout)
    asked = {"nat_a": "full_cone", "nat_b": "symmetric", "skew_s": 0.005, "loss": 0.01, "max_attempts": None}
    assert answer.items() >= asked.items()
    assert set(answer["prediction"]) == {"outcome", "probability", "reason", "floor_s", "agreed_floor_s"}
    assert answer["prediction"]["floor_s"] == pytest.approx(0.035)
    assert answer["prediction"]["agreed_floor_s"] == pytest.approx(0.055)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--nat-a", "cone"], ["nat", "'cone'", "full_cone"]),
        (["--delay", "20"], ["delay", "'20'"]),
        (["--loss", "101"], ["loss", "101"]),
        (["--skew-ms", "nan"], ["skew_ms", "nan", "60000"]),
        (["--deadline", "inf"], ["deadline", "inf", "3600"]),
        (["--max-attempts", "0"], ["max_attempts", "0"]),
        (["--strategy", "luck"], ["strategy", "'luck'", "reuse, keep"]),
        (["--background", "-1"], ["background", "-1"]),
        (["--unsolicited", "maybe"], ["unsolicited", "'maybe'"]),
    ],
)
def test_bad_input_gets_one_clear_line(words: list[str], parts: list[str]) -> None:
    assert_one_clear_line(run(punchlab("predict", *words)), *parts)
