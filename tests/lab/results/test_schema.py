"""One schema: what is written, what is read, and what others are given to read it with."""

from __future__ import annotations

import datetime
import json
from typing import Any

import jsonschema
import pytest

from punchlab.lab.errors import InputError, LabError
from punchlab.lab.results import read
from punchlab.lab.results.columns import COLUMNS, row
from punchlab.lab.results.documents import field_table, json_schema
from punchlab.lab.results.schema import TrialResult
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.record import lab_error, record
from punchlab.lab.trial.verdict import ClientRun
from tests.commands import punchlab, run
from tests.lab.client.odd_events import STARTED, trial_of
from tests.reports.sample import record as sample

SCENARIO: dict[str, Any] = {"id": "ab-1", "topology": "ab", "nat_a": "none", "nat_b": "none", "seed": -5}
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def written() -> dict[str, Any]:
    events = [{"event": name, "t": STARTED + at} for at, name in enumerate(("peer_known", "first_syn", "connected"))]
    return record(trial_of([ClientRun(host, events, 1, "") for host in "ab"]), **SCENARIO)


def broken() -> dict[str, Any]:
    started = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return lab_error(TrialOptions(), ("a", "b"), started, LabError("no capture"), **SCENARIO)


def test_the_command_prints_the_json_schema() -> None:
    printed = json.loads(run(punchlab("schema")).stdout)
    assert printed == json_schema()
    VALIDATOR.check_schema(printed)


@pytest.mark.parametrize("made", [written(), broken(), sample()], ids=["written", "lab error", "sample"])
def test_a_record_fits_the_json_schema_and_the_reader(made: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(made, allow_nan=False))
    VALIDATOR.validate(stored)
    result = read.result(stored, TrialResult, "here")
    assert (result.schema, result.id) == (2, made["id"])
    assert row(stored).keys() <= COLUMNS.keys() | {f"srflx_attempts.{host}" for host in "ab"}


def test_every_record_has_every_field() -> None:
    assert list(written()) == list(broken()) == list(json_schema()["$defs"]["TrialResult"]["properties"])
    assert broken()["outcome_prediction"] is broken()["cpu_starved"] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": 3}, "here: schema: 3 cannot be used; expected 1 or 2"),
        ({"id": ""}, "here: id: '' cannot be used; expected text"),
        ({"pair": ["a"]}, "here: pair: ['a'] cannot be used; expected a list of 2 texts"),
        ({"outcome": "good"}, "here: outcome: 'good' cannot be used; expected one of "),
        ({"loss": 1.5}, "here: loss: 1.5 cannot be used; expected a number from 0 to 1, or null"),
        ({"agrees": 1}, "here: agrees: 1 cannot be used; expected true or false, or null"),
        (
            {"exchange": {"syns": -1}},
            "here: exchange: syns: -1 cannot be used; expected a whole number from 0, or null",
        ),
        ({"path": {"nats": [1]}}, "here: path: nats: [1] cannot be used; expected a list of texts, or null"),
        (
            {"control": {"outcome_prediction": {}}},
            "here: control: outcome_prediction: outcome: missing; expected one of",
        ),
        ({"srflx_attempts": {"a": -1}}, "here: srflx_attempts: {'a': -1} cannot be used; expected an object, or null"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_both(change: dict[str, Any], expected: str) -> None:
    made = sample() | change
    with pytest.raises(InputError) as caught:
        read.result(dict(made), TrialResult, "here")
    assert str(caught.value).startswith(expected)
    assert list(VALIDATOR.iter_errors(made))


def test_an_error_in_a_record_of_schema_1_has_the_name_that_the_file_has() -> None:
    made = {**sample(), "schema": 1, "prediction": {"outcome": "perhaps"}}
    with pytest.raises(InputError, match=r"^here: prediction: outcome: 'perhaps'"):
        read.result(made, TrialResult, "here")


def test_the_table_for_the_documentation_has_every_field_with_its_meaning() -> None:
    head, _rule, *rows = (
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in field_table().splitlines()
    )
    assert head == ["field", "type", "meaning"]
    assert all(meaning for _name, _type, meaning in rows)
    names = {name.strip("`") for name, _type, _meaning in rows}
    assert names >= COLUMNS.keys() | written().keys()
