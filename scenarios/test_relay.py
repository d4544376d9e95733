"""If a punch is impossible, an edge relays if both clients allow it, and never otherwise."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

HOPELESS = ("symmetric", "symmetric")


@pytest.mark.parametrize(("topology", "strategy"), [("ab", "reuse"), ("cd", "auto")])
def test_the_senders_edge_relays_between_two_symmetric_nats_if_both_allow_it(
    topology: str, strategy: str, punch: Punch
) -> None:
    trial = punch(topology, *HOPELESS, strategy=strategy, deadline_s=2, relay=True, file_size=300_000)
    assert trial.outcome == "relayed", trial
    relays = {str(event["relay"]) for side in trial.sides for event in side.events if event["event"] == "relaying"}
    assert len(relays) == 1
    sender = trial.sides[0].last("registered")
    assert sender is not None
    (relayed,) = [
        event
        for event in trial.edge_log[str(sender["edge"])]
        if event["event"] == "relayed" and event["bytes"] > 300_000
    ]
    # The file and the overhead of its encryption passed, and nothing else.
    assert relayed["bytes"] < 320_000


def test_no_edge_relays_unless_allowed(punch: Punch) -> None:
    trial = punch("ab", *HOPELESS, strategy="reuse", deadline_s=2)
    assert trial.outcome == "punch_timeout", trial
    assert not any(event["event"] == "relaying" for log in trial.edge_log.values() for event in log)


def test_no_relay_is_used_if_a_punch_succeeds(punch: Punch) -> None:
    trial = punch("ab", "port_restricted_cone", "port_restricted_cone", strategy="reuse", relay=True)
    assert trial.direct, trial
    assert not any(side.last("relaying") for side in trial.sides)
