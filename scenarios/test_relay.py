"""Where nothing can be punched an edge may relay, if both sides want it; never otherwise."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

HOPELESS = ("symmetric", "symmetric")


@pytest.mark.parametrize(("topology", "strategy"), [("ab", "reuse"), ("cd", "auto")])
def test_two_symmetric_nats_are_joined_by_the_senders_edge_if_both_want_it(
    topology: str, strategy: str, punch: Punch
) -> None:
    trial = punch(topology, *HOPELESS, strategy=strategy, deadline_s=2, relay=True, file_size=300_000)
    assert trial.outcome == "relayed", trial
    relays = {str(event["relay"]) for side in trial.sides for event in side.events if event["event"] == "relaying"}
    assert len(relays) == 1
    sender = trial.sides[0].last("registered")
    assert sender is not None
    (told,) = [
        event
        for event in trial.edge_log[str(sender["edge"])]
        if event["event"] == "relayed" and event["bytes"] > 300_000
    ]
    # What passed is the file and what encryption adds to it, not something else.
    assert told["bytes"] < 320_000


def test_without_being_asked_nobody_relays(punch: Punch) -> None:
    trial = punch("ab", *HOPELESS, strategy="reuse", deadline_s=2)
    assert trial.outcome == "punch_timeout", trial
    assert not any(event["event"] == "relaying" for log in trial.edge_log.values() for event in log)


def test_who_can_be_punched_is_not_relayed(punch: Punch) -> None:
    trial = punch("ab", "port_restricted_cone", "port_restricted_cone", strategy="reuse", relay=True)
    assert trial.direct, trial
    assert not any(side.last("relaying") for side in trial.sides)
