"""The outcomes of trials and of predictions."""

from __future__ import annotations

from typing import Literal, get_args

TrialOutcome = Literal[
    "direct",
    "relayed",
    "refused",
    "hopeless",
    "punch_timeout",
    "no_rendezvous",
    "wrong_peer",
    "client_error",
    "lab_error",
]
PredictedOutcome = Literal["direct", "fails", "depends"]

OUTCOMES: tuple[TrialOutcome, ...] = get_args(TrialOutcome)
"""From the best to the worst; `lab_error` is no measurement."""
