"""Random probes: the formulas against published figures and against enumeration."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from punchlab import reports
from punchlab.punch.nat.birthday import collision, collision_of_two

TABLE = (Path(reports.__file__).parent / "reference" / "birthday.csv").read_text()
PUBLISHED = list(csv.DictReader(TABLE.splitlines()))


@pytest.mark.parametrize(
    "row", PUBLISHED, ids=lambda row: f"{row['case']}-{row['open_ports_hard_side']}-{row['probes']}"
)
def test_the_formulas_give_the_published_figures(row: dict[str, str]) -> None:
    formula = collision if row["case"] == "one_hard" else collision_of_two
    probability = formula(int(row["open_ports_hard_side"]), int(row["probes"]))
    assert probability == pytest.approx(float(row["p_success"]), rel=0.01, abs=5e-5)


def test_one_probe_hits_with_the_share_of_open_ports() -> None:
    assert collision(3, 1, ports=12) == pytest.approx(0.25)
    assert collision(1, 3, ports=12) == pytest.approx(0.25)
    # Two of four ports are open: two probes miss both in one of six ways.
    assert collision(2, 2, ports=4) == pytest.approx(5 / 6)


def test_certain_and_impossible_hits() -> None:
    assert collision(4, 9, ports=12) == 1.0
    assert collision(0, 9, ports=12) == 0.0
    assert collision(4, 0, ports=12) == 0.0


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"probes: 13; expected 0 to 12"):
        collision(3, 13, ports=12)
    with pytest.raises(ValueError, match="-1 open ports"):
        collision_of_two(-1, 1)
