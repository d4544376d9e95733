"""The order of trials: a campaign runs the same trials, regardless of interruptions and of the order of their ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.lab.campaign import Campaign, Cell, Job
from punchlab.lab.campaign.plan import Plan
from punchlab.lab.campaign.statistics import wilson_interval
from punchlab.lab.errors import InputError
from punchlab.lab.trial.options import TrialOptions
from punchlab.topologies import AB, ABCD

Fate = Callable[[Job], str]


def cell(nat_a: str = "none", nat_b: str = "none", **more: Any) -> Cell:
    usual: dict[str, Any] = {"topology": "ab", "kind": AB, "pair": ("a", "b"), "nats": (nat_a, nat_b)}
    return Cell(**usual | more)


CELLS = (cell(), cell("symmetric"), cell(nat_b="symmetric"))


def record(job: Job, outcome: str, *, agrees: bool | None = True) -> dict[str, object]:
    return {"id": job.id, "outcome": outcome, "agrees": agrees}


def chance(rate: float) -> Fate:
    """Return outcomes with this success rate; the same trial always has the same outcome."""
    return lambda job: "direct" if random.Random(job.seed).random() < rate else "refused"


def play(
    campaign: Campaign,
    fate: Fate,
    *,
    rng: random.Random,
    before: Iterable[dict[str, object]] = (),
    stop_after: int | None = None,
    slots: int = 3,
) -> list[dict[str, object]]:
    """Run a campaign whose trials end in random order, until it is complete or killed; return all records."""
    records = list(before)
    plan = Plan(campaign, records)
    running: list[Job] = []
    ended = 0
    while stop_after is None or ended < stop_after:
        while len(running) < slots and (job := plan.next()) is not None:
            running.append(job)
        if not running:
            break
        job = running.pop(rng.randrange(len(running)))
        made = record(job, fate(job))
        records.append(made)
        plan.finished(made, 1.0)
        ended += 1
    return records


def ids(records: Iterable[dict[str, object]]) -> list[str]:
    return sorted(str(each["id"]) for each in records)


def test_every_trial_of_every_cell_is_handed_out_once() -> None:
    records = play(Campaign(CELLS, trials=7), chance(0.5), rng=random.Random(1))
    assert ids(records) == sorted(f"{each.id}-{number:03}" for each in CELLS for number in range(1, 8))


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0, 1), st.lists(st.integers(0, 12), max_size=6), st.integers(1, 5))
def test_a_campaign_that_was_killed_ends_with_the_trials_of_one_that_was_not(
    seed: int, rate: float, kills: list[int], slots: int
) -> None:
    campaign = Campaign(CELLS, until_ci=0.2, min_trials=3, seed=seed)
    whole = play(campaign, chance(rate), rng=random.Random(seed), slots=1)
    records: list[dict[str, object]] = []
    for number, ended in enumerate(kills):
        rng = random.Random(number)
        records = play(campaign, chance(rate), rng=rng, before=records, stop_after=ended, slots=slots)
    records = play(campaign, chance(rate), rng=random.Random(99), before=records, slots=slots)
    assert ids(records) == ids(whole)
    assert {str(each["id"]): each["outcome"] for each in records} == {
        str(each["id"]): each["outcome"] for each in whole
    }


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.08, 0.15, 0.3]), st.integers(1, 30))
def test_a_cell_stops_at_the_first_trial_with_which_its_interval_is_narrow_enough(
    seed: int, rate: float, wanted: float, least: int
) -> None:
    fate = chance(rate)
    campaign = Campaign(CELLS[:1], until_ci=wanted, min_trials=least, seed=seed)
    records = play(campaign, fate, rng=random.Random(seed), slots=4)
    direct = 0
    for number in range(1, 10_000):
        direct += fate(campaign.job(CELLS[0], number)) == "direct"
        interval = wilson_interval(direct, number)
        if number >= least and interval.high - interval.low <= 2 * wanted:
            break
    assert len(records) == number <= campaign.most


def test_trials_bound_what_an_interval_may_cost() -> None:
    campaign = Campaign(CELLS, trials=10, until_ci=0.01)
    assert len(play(campaign, chance(0.5), rng=random.Random(2))) == 30


def test_a_trial_that_the_lab_broke_counts_for_nothing() -> None:
    def fate(job: Job) -> str:
        return "lab_error" if job.number <= 5 else "direct"

    whole = play(Campaign(CELLS[:1], until_ci=0.2), chance(1), rng=random.Random(3))
    assert len(play(Campaign(CELLS[:1], until_ci=0.2), fate, rng=random.Random(3))) == len(whole) + 5


def test_each_cell_has_one_trial_before_any_has_two_then_the_least_certain_is_next() -> None:
    plan = Plan(Campaign(CELLS, trials=30))
    jobs = []
    for _ in range(30):
        job = plan.next()
        assert job is not None
        jobs.append(job)
        mixed = job.cell == CELLS[1] and job.number % 2 == 0
        plan.finished(record(job, "refused" if mixed else "direct"), 1.0)
    assert [job.cell for job in jobs[:3]] == list(CELLS)
    assert [sum(job.cell == each for job in jobs) for each in CELLS] == [6, 18, 6]


def test_a_cell_that_contradicts_the_oracle_comes_before_one_that_does_not() -> None:
    plan = Plan(Campaign(CELLS, trials=30))
    for _ in range(9):
        job = plan.next()
        assert job is not None
        plan.finished(record(job, "direct", agrees=job.cell != CELLS[2]), 1.0)
    job = plan.next()
    assert job is not None
    assert job.cell == CELLS[2]


def test_a_cell_that_takes_longer_than_the_remaining_time_is_skipped() -> None:
    plan = Plan(Campaign(CELLS[:2], trials=3))
    for _ in range(2):
        job = plan.next(within_s=100)
        assert job is not None
        plan.finished(record(job, "direct"), 5.0 if job.cell == CELLS[0] else 0.5)
    left = []
    while (job := plan.next(within_s=1)) is not None:
        left.append(job)
        plan.finished(record(job, "direct"), 0.5)
    assert [(each.cell.nats, each.number) for each in left] == [(CELLS[1].nats, 2), (CELLS[1].nats, 3)]


def test_the_number_of_trials_to_come_is_known_or_guessed() -> None:
    assert Plan(Campaign(CELLS, trials=7)).expected == 21
    campaign = Campaign(CELLS[:1], until_ci=0.1)
    plan = Plan(campaign)
    half = [record(campaign.job(CELLS[0], n), "direct" if n % 2 else "refused") for n in range(1, plan.expected + 1)]
    assert plan.expected < Plan(campaign, half).expected <= campaign.most


def test_the_id_and_the_seed_of_a_trial_depend_only_on_its_cell_and_number() -> None:
    slow = cell(shape={"delay": "20ms"}, options=TrialOptions(strategy="keep", skew_s=0.03))
    one = Campaign([slow], trials=1, seed=5).job(slow, 3)
    other = Campaign([*CELLS, slow], trials=9, until_ci=0.1, seed=5).job(slow, 3)
    assert (one.id, one.seed) == (other.id, other.seed)
    assert one.id == "ab-none-none-preset-keep-delay20ms-skew30ms-003"
    assert one.seed != Campaign([slow], seed=5).job(slow, 4).seed
    assert one.seed != Campaign([slow], seed=6).job(slow, 3).seed


@pytest.mark.parametrize(
    "other",
    [
        cell(pair=("a", "c"), kind=ABCD),
        cell(unsolicited="reset"),
        cell(background=5.0),
        cell(shape={"port_mapping": "pcp"}),
        cell(shape={"loss": 1}),
        cell(shape={"bw": 1}),
        cell(shape={"jitter": "1ms"}),
        cell(options=TrialOptions(max_attempts=1)),
        cell(options=TrialOptions(deadline_s=1)),
        cell(options=TrialOptions(skew_s=0.0)),
    ],
)
def test_cells_that_differ_in_anything_have_other_ids(other: Cell) -> None:
    assert other.id != cell().id


def test_one_cell_in_two_spellings_is_refused() -> None:
    with pytest.raises(InputError, match="cells: 'ab-none-none-preset-reuse-delay20ms'"):
        Campaign([cell(shape={"delay": "20ms"}), cell(shape={"delay": "0.02s"})])
