"""The order of cells: each prefix covers all axes evenly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.lab.campaign import Campaign, Cell
from punchlab.lab.campaign.order import balanced
from punchlab.lab.campaign.plan import Plan
from punchlab.lab.cli import arguments, axes
from punchlab.lab.trial.options import TrialOptions
from punchlab.topologies import AB
from tests.examples import EXAMPLES

SWEEP = """\
topology = ["ab", "cd"]
nat_a = "classics"
nat_b = ["port_restricted_cone", "symmetric"]
unsolicited = ["drop", "reset"]
delay = ["0ms", "40ms"]
max_attempts = ["none", 1]
skew_ms = ["none", 30]
until_ci = 0.05
"""


def sweep(tmp_path: Path) -> Campaign:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    return axes.campaign(arguments.parse(["run", str(tmp_path / "sweep.toml")]))


def spreads(cells: Sequence[Cell], names: Sequence[str]) -> dict[str, int]:
    """Return axis -> maximum difference between the counts of its values, over all prefixes."""
    worst = {}
    for name in names:
        counts = Counter({str(cell.axes()[name]): 0 for cell in cells})
        worst[name] = 0
        for cell in cells:
            counts[str(cell.axes()[name])] += 1
            worst[name] = max(worst[name], max(counts.values()) - min(counts.values()))
    return worst


def varied(cells: Sequence[Cell]) -> list[str]:
    return [name for name in cells[0].axes() if len({str(cell.axes()[name]) for cell in cells}) > 1]


def test_every_prefix_of_a_sweep_has_each_value_of_each_axis_equally_often(tmp_path: Path) -> None:
    cells = sweep(tmp_path).cells
    order = balanced(cells)
    assert sorted(cell.id for cell in order) == sorted(cell.id for cell in cells)
    found = spreads(order, varied(cells))
    assert {"topology", "nat_a", "nat_b", "unsolicited", "delay", "max_attempts", "skew_wanted_s"} <= found.keys()
    assert set(found.values()) == {1}


def test_the_combinations_of_two_axes_are_spread_too(tmp_path: Path) -> None:
    order = balanced(sweep(tmp_path).cells)
    for one in ("topology", "unsolicited", "delay"):
        for other in ("nat_b", "max_attempts", "skew_wanted_s"):
            pairs = Counter((str(cell.axes()[one]), str(cell.axes()[other])) for cell in order[:80])
            assert len(pairs) == 4
            assert min(pairs.values()) >= 10


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_any_product_of_axes_is_balanced(sizes: list[int], rng: random.Random) -> None:
    cells = [
        Cell(
            "ab",
            AB,
            ("a", "b"),
            (f"nat{a}", f"nat{b}"),
            shape={"loss": loss},
            options=TrialOptions(max_attempts=tries + 1),
        )
        for a in range(sizes[0])
        for b in range(sizes[1])
        for loss in range(sizes[2])
        for tries in range(sizes[3])
    ]
    rng.shuffle(cells)
    order = balanced(cells)
    assert sorted(cell.id for cell in order) == sorted(cell.id for cell in cells)
    assert all(spread <= 1 for spread in spreads(order, varied(cells)).values())


def test_topologies_with_axes_of_their_own_take_turns() -> None:
    made = axes.campaign(
        arguments.parse(["run", "ab,same_nat,abcd", "--strategy", "reuse,keep", "--unsolicited", "drop,reset"])
    )
    order = balanced(made.cells)
    assert sorted(cell.id for cell in order) == sorted(cell.id for cell in made.cells)
    least = min(Counter(cell.topology for cell in order).values())
    found = spreads(order[: 3 * least], ("topology", "strategy", "unsolicited"))
    assert found["topology"] == 1
    assert max(found.values()) <= 3


@pytest.mark.parametrize("options", [("--trials", "3"), ("--until-ci", "0.2"), ("--seed", "5")])
@pytest.mark.parametrize("stops", [(), (22,), (5, 1, 40)])
def test_a_budget_that_is_used_up_in_pieces_covers_the_axes_as_one(
    tmp_path: Path, options: tuple[str, ...], stops: tuple[int, ...]
) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("until_ci = 0.05\n", ""))
    campaign = axes.campaign(arguments.parse(["run", str(tmp_path / "sweep.toml"), *options]))
    tried: list[Cell] = []
    records: list[dict[str, object]] = []
    for stop in (*stops, 90):
        plan = Plan(campaign, records)
        for _ in range(stop):
            job = plan.next()
            assert job is not None
            tried.append(job.cell)
            records.append({"id": job.id, "outcome": "direct", "agrees": True})
            plan.finished(records[-1], 1.0)
    assert set(spreads(tried, varied(campaign.cells)).values()) == {1}
