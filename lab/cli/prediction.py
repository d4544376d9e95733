"""`punchlab predict`: outcome prediction for two NATs without a lab."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict

from punchlab.lab.events.background import check_rate
from punchlab.lab.impair import Impairment
from punchlab.lab.inputs import numbers
from punchlab.lab.nat import presets
from punchlab.lab.oracle.outcome import Dial, Outcome, Prediction
from punchlab.lab.oracle.strategies import Dialling, Guessing, predict_outcome
from punchlab.lab.trial.options import TrialOptions
from punchlab.punch.nat.behavior import NatBehavior


def question(given: argparse.Namespace) -> tuple[NatBehavior | None, NatBehavior | None, Dial]:
    """Return both NATs and the parameters of the hosts. Raises `InputError`, as a trial with these options would."""
    path = Impairment.from_options({"delay": given.delay, "jitter": given.jitter, "loss": given.loss})
    skew_s = 0.0 if given.skew_ms is None else numbers.skew_ms("skew_ms", given.skew_ms) / 1000
    deadline_s = numbers.deadline("deadline", given.deadline)
    options = TrialOptions(
        strategy=given.strategy, max_attempts=given.max_attempts, deadline_s=deadline_s, skew_s=skew_s
    )
    check_rate(given.background)
    nats = [presets.behavior(name, given.unsolicited) for name in (given.nat_a, given.nat_b)]
    dial = Dial(path.delay_s, skew_s, options.max_attempts, options.deadline_s, path.loss, path.jitter_s)
    return nats[0], nats[1], dial


def run(given: argparse.Namespace) -> int:
    """Print the prediction. JSON includes the options, with the names of a result record."""
    a, b, dial = question(given)
    one, other = ([] if nat is None else [nat] for nat in (a, b))
    prediction = predict_outcome(
        given.strategy, Dialling(one, other, dial, guessing=Guessing(background_per_s=given.background))
    )
    if given.json:
        asked = {
            "nat_a": given.nat_a,
            "nat_b": given.nat_b,
            "unsolicited": given.unsolicited,
            "delay_s": dial.delay_s,
            "jitter_s": dial.jitter_s,
            "loss": dial.loss,
            "background_per_s": given.background,
            "strategy": given.strategy,
            "max_attempts": dial.attempts,
            "deadline_s": dial.deadline_s,
            "skew_s": dial.skew_s,
        }
        print(json.dumps(asked | {"prediction": asdict(prediction)}))
    else:
        print(_sentence(prediction))
    return 0


def _sentence(prediction: Prediction) -> str:
    chance = f" ({prediction.probability:.0%})" if prediction.outcome is Outcome.DEPENDS else ""
    floor = (
        ""
        if prediction.floor_s is None
        else f"; it takes at least {math.floor(prediction.floor_s * 1e4) / 10:g} ms from the first SYN"
    )
    return f"{prediction.outcome}{chance}: {prediction.reason}{floor}"
