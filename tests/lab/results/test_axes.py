"""The axes: declared once, and each is everywhere that an axis has to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from punchlab.lab.cli import arguments, axes
from punchlab.lab.results.axes import AXES, ID_ORDER
from punchlab.lab.results.fields import fields
from punchlab.lab.results.schema import TrialResult
from punchlab.lab.trial.options import TrialOptions

STORED = Path(__file__).parents[2] / "reports" / "schema1"
NEAR = (
    "run ab --nat-a full_cone,symmetric --nat-b port_restricted_cone,symmetric --strategy reuse,auto --trials 2 "
    "--delay 10ms --deadline 2 --seed 7"
)
CARRIER = (
    "run carrier --nat-a full_cone --nat-b full_cone --trials 1 --port-mapping preset,all --bw none,10 --deadline 2"
)


def test_an_axis_has_a_field_of_the_record_an_option_a_reader_and_a_place_in_ids() -> None:
    assert {axis.field for axis in AXES.values()} <= fields(TrialResult).keys()
    assert AXES.keys() == axes.READERS.keys() == {*ID_ORDER, "topology", "pair", "nat_a", "nat_b"}
    given = vars(arguments.parse(["run", "ab"]))
    assert given.keys() >= AXES.keys()
    assert [name for name in AXES if given[name] is not None] == ["topology"]


def test_the_usual_values_are_those_of_a_trial() -> None:
    (cell, *_others) = axes.campaign(arguments.parse(["run", "ab"])).cells
    assert cell.options == TrialOptions()


@pytest.mark.parametrize(("folder", "words"), [("near", NEAR), ("carrier", CARRIER)])
def test_a_stored_campaign_has_the_ids_seeds_and_description_that_it_had(folder: str, words: str) -> None:
    campaign = axes.campaign(arguments.parse(words.split()))
    records = [json.loads(line) for line in (STORED / folder / "results.jsonl").read_text().splitlines()]
    jobs = [campaign.job(cell, number) for cell in campaign.cells for number in range(1, campaign.most + 1)]
    assert {job.id: job.seed for job in jobs} == {record["id"]: record["seed"] for record in records}
    assert json.loads(json.dumps(campaign.description())) == json.loads((STORED / folder / "run.json").read_text())
