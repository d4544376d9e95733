"""Output of hostile clients: every event of the contract with each field missing, of another type, or huge."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from punchlab.lab.capture.frame import Recording
from punchlab.lab.client.contract import DEEPEST, EVENTS, TIME, Rule
from punchlab.lab.exchange import Exchange, delivery
from punchlab.lab.graph import Path as LabPath
from punchlab.lab.oracle.outcome import Outcome, Prediction
from punchlab.lab.trial import verdict
from punchlab.lab.trial.control import Control
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial
from punchlab.lab.trial.verdict import ClientRun
from tests.lab.exchange.handmade import PAIR

STARTED, RECEIVED = 100.0, 101.0
FAR = 10_000
"""More levels of nesting than a parser accepts."""

GOOD: Mapping[str, object] = {
    "t": 100.5,
    "code": "a code",
    "kind": "srflx",
    "local": "192.168.1.2:4000",
    "remote": "11.16.1.2:5000",
    "outcome": "refused",
    "reason": "why",
}
VALUES: Mapping[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "negative": "-1",
    "fraction": "0.5",
    "infinite by its exponent": "1e999",
    "negative infinity": "-Infinity",
    "no number": "NaN",
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "empty text": '""',
    "text": '"x"',
    "name of an event": '"done"',
    "lone surrogate": '"\\ud800"',
    "surrogates in the wrong order": '"\\udc00\\ud800"',
    "NUL": '"a\\u0000b"',
    "commands of a terminal": '"\\u001b]0;x\\u0007\\u001b[2J\\u009b31m"',
    "bidirectional controls": '"\\u202e\\u2066\\u200e"',
    "line ends": '"a\\nb\\r\\u2028\\u0085c"',
    "a formula": '"=HYPERLINK(\\"http://11.0.0.1\\")"',
    "markup": '"<script>alert(1)</script>[bold]{0}%s"',
    "long text": f'"{"x" * 50_000}"',
    "endpoint with a scope": '"[fe80::1%eth0]:80"',
    "endpoint with a scope of a surrogate": '"[fe80::1%\\ud800]:80"',
    "endpoint with a scope that commands a terminal": '"[fe80::1%\\u001b[2J]:80"',
    "endpoint with a long scope": f'"[fe80::1%{"x" * 20_000}]:80"',
    "endpoint in digits of another script": '"11.0.0.1:\\u0663"',
    "array": "[]",
    "object": "{}",
    "event": '{"event": "done"}',
    "many arrays": f"[{'[],' * 10_000}[]]",
    "many names": f"{{{','.join(f'{chr(34)}{number}{chr(34)}:0' for number in range(4000))}}}",
    "deep arrays": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "deep objects": '{"a":' * (DEEPEST + 1) + "0" + "}" * (DEEPEST + 1),
    "arrays beyond the parser": "[" * FAR + "]" * FAR,
    "objects beyond the parser": '{"a":' * FAR + "0" + "}" * FAR,
    "arrays that do not end": "[" * FAR,
}
"""Values of a field, as JSON or similar."""


@dataclass(frozen=True, slots=True)
class Case:
    """A line of output, and its anomaly: a field, and how it is changed."""

    role: str
    event: str
    field: str
    what: str
    line: bytes

    def __str__(self) -> str:
        return f"{self.role}, {self.event}, {self.field}: {self.what}"


def cases() -> Iterator[Case]:
    """Yield every event of every role with one anomaly."""
    for rule in EVENTS.values():
        for role in rule.roles:
            for field, what, line in _lines(rule):
                yield Case(role, rule.name, field, what, line)


def _lines(rule: Rule) -> Iterator[tuple[str, str, bytes]]:
    usual = {"event": json.dumps(rule.name)}
    usual |= {field.name: json.dumps(GOOD[field.name]) for field in (TIME, *rule.fields)}
    for name in usual:
        yield name, "removed", _object({other: text for other, text in usual.items() if other != name})
        yield name, "twice", _object(usual)[:-1] + f', "{name}": [7]}}'.encode()
        yield name, "invalid UTF-8", _object(usual | {name: '"\\0"'}).replace(b"\\0", b"\xff\xc0\x80\xed\xa0\x80")
        yield name, "NUL bytes", _object(usual | {name: '"\0"'})
        for what, text in VALUES.items():
            yield name, what, _object(usual | {name: text})
    yield "another", "lone surrogates", _object(usual | {"\\ud800": '["\\udfff", {"\\ud9ff": 1}]'})
    for what, text in VALUES.items():
        yield "another", what, _object(usual | {"another": text})


def _object(texts: Mapping[str, str]) -> bytes:
    return f"{{{', '.join(f'{chr(34)}{name}{chr(34)}: {text}' for name, text in texts.items())}}}".encode()


def trial_of(sides: Sequence[ClientRun], *, arrived: bool = False) -> Trial:
    """Return a trial with these client runs and without packets."""
    one, other = sides
    agreed = one.last("agreed")
    exchange = Exchange([], PAIR, None if agreed is None else (agreed["local"], agreed["remote"]))
    outcome, reason = verdict.judge(sides, arrived=arrived, exchange=exchange, nats=["nat_a", "nat_b"])
    predicted = Prediction(Outcome.DIRECT, 1.0, "", 0.0, 0.0)
    return Trial(
        options=TrialOptions(),
        pair=("a", "b"),
        path=LabPath(["a", "b"], [], None, 0.0, 0.0, 0.0, None),
        links="none",
        background_per_s=0.0,
        started=datetime.datetime.now(datetime.UTC),
        outcome=outcome,
        reason=reason,
        transferred=arrived,
        delivery=delivery(exchange, {("nat_a", "nat_b")}),
        sides=(one, other),
        control=Control(True, 0.0, predicted),
        prediction=predicted,
        recording=Recording((), (), {}, 0),
        exchange=exchange,
        edge_log={},
        timings_s=verdict.timings(sides, STARTED),
        cpu_pressure=None,
    )
