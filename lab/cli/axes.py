"""A campaign from flags or a file: every value is checked, and all mistakes are told at once."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from punchlab.lab.campaign import Campaign, Cell
from punchlab.lab.campaign.cells import DURATIONS, SHAPE
from punchlab.lab.cli import campaign_file
from punchlab.lab.client.description import CLIENTS
from punchlab.lab.errors import InputError, SeveralInputsError
from punchlab.lab.events.background import MOST_PER_S
from punchlab.lab.impair import CHOICES, Impairment
from punchlab.lab.impair.impairment import FASTEST_BIT_S, SLOWEST_BIT_S
from punchlab.lab.inputs import numbers
from punchlab.lab.nat import presets
from punchlab.lab.trial.options import TrialOptions
from punchlab.punch.nat.behavior import PortMapping, Unsolicited
from punchlab.punch.suggestion import one_of, suggestion
from punchlab.topologies import TOPOLOGIES
from punchlab.topologies.internet import Internet

NONE = "none"
"""In an axis: no limit, or not set."""
MOST_CELLS = 100_000
_LONGEST_WORD = 100
"""Characters of a misspelt word that are looked at."""

Reader = Callable[[str, object], Any]
"""Name of the field, value as given -> value as used. Raises `InputError`."""


def _text(*choices: str) -> Reader:
    def read(field: str, value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise InputError(field, value, one_of(value, choices))

    return read


def _number(unit: str, least: float, most: float) -> Reader:
    return partial(numbers.number, least=least, most=most, unit=unit)


def _or_none(reader: Reader) -> Reader:
    def read(field: str, value: object) -> Any:
        if isinstance(value, str) and value == NONE:
            return None
        try:
            return reader(field, value)
        except InputError as error:
            raise InputError(field, value, f"{error.expected}, or {NONE}") from None

    return read


def _duration(field: str, value: object) -> str:
    try:
        Impairment.from_options({"delay": value})
    except InputError as error:
        raise InputError(field, value, error.expected) from None
    return str(value)


def _port_mapping(field: str, value: object) -> str | None:
    read: str = _text(presets.OWN_ANSWER, *PortMapping)(field, value)
    return None if read == presets.OWN_ANSWER else read


def _pair(field: str, value: object) -> tuple[str, str]:
    known = list(dict.fromkeys(pair for kind in TOPOLOGIES.values() for pair in kind.pairs))
    names = tuple(value.split(",")) if isinstance(value, str) else ()
    for one, other in known:
        if names in ((one, other), (other, one)):
            return names[0], names[1]
    raise InputError(field, value, f"one of {_words(known)}, in either order")


_NAT_GROUPS: Mapping[str, Sequence[str]] = {name: presets.named(name) for name in ("classics", "firewalls", "all")}
_NATS = (*_NAT_GROUPS, *presets.PRESETS)
_MBIT_S = (SLOWEST_BIT_S / 1e6, FASTEST_BIT_S / 1e6)

AXES: Mapping[str, Reader] = {
    "topology": _text(*TOPOLOGIES),
    "pair": _pair,
    "nat_a": _text(*_NATS),
    "nat_b": _text(*_NATS),
    "cgn": _text(*presets.PRESETS),
    "unsolicited": _text(presets.OWN_ANSWER, *Unsolicited),
    "port_mapping": _port_mapping,
    "background": _number("connections per second,", 0, MOST_PER_S),
    "delay": _duration,
    "jitter": _duration,
    "loss": numbers.percentage,
    "bw": _or_none(_number("Mbit/s", *_MBIT_S)),
    "client": _text(*CLIENTS),
    "strategy": _text(*dict.fromkeys(name for client in CLIENTS.values() for name in client.strategies)),
    "max_attempts": _or_none(numbers.attempts),
    "deadline": numbers.deadline,
    "skew_ms": _or_none(numbers.skew_ms),
}
"""What may have several values; a cell has one of each."""

SINGLE: Mapping[str, Reader] = {
    "trials": numbers.trials,
    "until_ci": numbers.half_width,
    "min_trials": numbers.trials,
    "links": _text(*CHOICES),
    "seed": numbers.seed,
}
_FLAGS_ONLY = ("jobs", "budget", "out")
_NUMBERS = (
    "background",
    "loss",
    "bw",
    "max_attempts",
    "deadline",
    "skew_ms",
    "trials",
    "until_ci",
    "min_trials",
    "seed",
)
_USUAL: Mapping[str, Sequence[Any]] = {
    "unsolicited": (presets.OWN_ANSWER,),
    "background": (0.0,),
    "client": ("punch",),
    "strategy": ("reuse",),
    "max_attempts": (None,),
    "deadline": (5.0,),
    "skew_ms": (None,),
}


@dataclass(frozen=True, slots=True)
class _Given:
    """A field that was given, and where: the file and the line, or nothing for a flag."""

    name: str
    value: object
    where: str = ""

    def error(self, value: object, expected: str) -> InputError:
        return InputError(self.where + self.name, value, expected)


def campaign(given: argparse.Namespace) -> Campaign:
    """The campaign of `punchlab run`. A flag wins over the file. Raises `SeveralInputsError`."""
    errors: list[InputError] = []
    fields, lost = _fields(given, errors)
    axes = {name: _values(fields[name], reader, errors) for name, reader in AXES.items() if name in fields}
    single = {}
    for name, reader in SINGLE.items():
        if name in fields:
            with suppress(ValueError):
                single[name] = _one(fields[name], fields[name].value, reader, errors)
    if "topology" not in fields and "topology" not in lost:
        errors.append(InputError(f"{given.topology}: topology", None, f"one of {', '.join(TOPOLOGIES)}"))
    # What is left when the mistakes are taken out is checked as a whole.
    cells = _cells(axes, fields, errors) if "topology" in fields else []
    if not errors:
        try:
            return Campaign(cells, **single)
        except InputError as error:
            errors.append(fields[error.field].error(error.value, error.expected) if error.field in fields else error)
    once = {str(error): error for error in errors}.values()
    raise SeveralInputsError(sorted(once, key=_line))


def _line(error: InputError) -> int:
    """The line of the campaign file that an error is about; flags come first."""
    found = re.search(r":(\d+)(?=:|$)", error.field)
    return int(found[1]) if found else 0


def name(given: argparse.Namespace) -> str:
    """What the campaign is called: by its file, or by its topologies and strategies."""
    if _is_file(given.topology):
        return Path(given.topology).stem
    return f"{given.topology}-{given.strategy or _USUAL['strategy'][0]}".replace(",", "+")


def _is_file(word: str) -> bool:
    return word.endswith(".toml") or "/" in word


def _fields(given: argparse.Namespace, errors: list[InputError]) -> tuple[dict[str, _Given], set[str]]:
    """What the file and the flags say; and the fields that the file wanted to give, had it been TOML."""
    fields: dict[str, _Given] = {}
    lost: set[str] = set()
    flags = {name: getattr(given, name, None) for name in (*AXES, *SINGLE)}
    if _is_file(given.topology):
        del flags["topology"]
        file = campaign_file.read(Path(given.topology))
        errors += file.errors
        lost = file.broken
        for key, value in file.values.items():
            where = f"{file.path}:{file.lines[key]}: "
            if key in AXES or key in SINGLE:
                fields[key] = _Given(key, value, where)
            else:
                errors.append(_unknown(key, where))
    for name, value in flags.items():
        if value is not None:
            fields[name] = _Given(name, _from_words(name, value))
    return fields, lost


def _unknown(key: str, where: str) -> InputError:
    known = (*AXES, *SINGLE)
    near = suggestion(key, known)
    if key in _FLAGS_ONLY:
        hint = f"a field of campaigns; {key} is an option, --{key}"
    elif near:
        hint = f"a field{near}"
    else:
        hint = f"one of {', '.join(known)}"
    return InputError(where + key[:_LONGEST_WORD], key, hint)


def _from_words(name: str, value: str | Sequence[str]) -> object:
    """What a flag says, as a file would say it."""
    words = list(value) if not isinstance(value, str) else value.split(",") if name in AXES else [value]
    values = [numbers.of_text(word) if name in _NUMBERS else word for word in words]
    return values if name in AXES else values[0]


def _values(field: _Given, reader: Reader, errors: list[InputError]) -> list[Any]:
    """The values of an axis; what is wrong with any of them goes to `errors`."""
    given = field.value if isinstance(field.value, list) else [field.value]
    if not given:
        errors.append(field.error(given, "at least one value"))
    values: list[Any] = []
    seen: set[str] = set()
    for value in given:
        with suppress(ValueError):
            read = _one(field, value, reader, errors)
            if field.name in ("nat_a", "nat_b") and read in _NAT_GROUPS:
                values += _NAT_GROUPS[read]
            elif _sameness(field.name, read) in seen:
                errors.append(field.error(value, "every value once"))
            else:
                seen.add(_sameness(field.name, read))
                values.append(read)
    return list(dict.fromkeys(values))  # a NAT may be in a group and on its own


def _sameness(name: str, value: Any) -> str:
    if name in DURATIONS:
        return str(Impairment.from_options({"delay": value}).delay_s)
    return json.dumps(value)


def _one(field: _Given, value: object, reader: Reader, errors: list[InputError]) -> Any:
    try:
        return reader(field.name, value)
    except InputError as error:
        errors.append(field.error(value, error.expected))
        raise


def _cells(axes: Mapping[str, Sequence[Any]], fields: Mapping[str, _Given], errors: list[InputError]) -> list[Cell]:
    """Every combination that can be built; what is wrong with the others goes to `errors`."""

    def put(error: InputError) -> None:
        where = fields.get(error.field, fields["topology"]).where
        errors.append(InputError(where + error.field, error.value, error.expected))

    if (number := _most(axes)) > MOST_CELLS:
        put(InputError("topology", f"{number:,} cells", f"at most {MOST_CELLS:,} combinations of the axes"))
        return []
    options = []
    for chosen in itertools.product(*(_or_usual(axes, name) for name in _OPTIONS)):
        try:
            options.append(_options(*chosen))
        except InputError as error:
            put(error)
    cells = []
    for topology in axes.get("topology", ()):
        kind = TOPOLOGIES[topology]
        accepted = inspect.signature(kind.build).parameters
        for name in SHAPE:
            if name in axes and name not in accepted:
                value = ", ".join(map(str, axes[name]))
                put(InputError(name, value, f"no {name} for the topology {topology}, which has none as a whole"))
        pairs = [pair for pair in axes.get("pair", kind.pairs[:1]) if {pair, pair[::-1]} & set(kind.pairs)]
        if axes.get("pair") and not pairs:
            expected = f"for {topology} one of {_words(kind.pairs)}, in either order"
            put(InputError("pair", _words(axes["pair"]), expected))
        varied = [name for name in SHAPE if axes.get(name) and name in accepted]
        shapes = [
            {name: value for name, value in zip(varied, chosen, strict=True) if value is not None}
            for chosen in itertools.product(*(axes[name] for name in varied))
        ]
        nats = _nats(axes, kind)
        if not nats:
            put(
                InputError(
                    "nat_b", ", ".join(axes["nat_b"]), f"one of nat_a's, for in {topology} both hosts are behind it"
                )
            )
        for pair, shape, unsolicited, both in itertools.product(pairs, shapes, _or_usual(axes, "unsolicited"), nats):
            cell = Cell(topology, kind, pair, both, unsolicited, shape)
            try:
                cell.build()
            except InputError as error:
                put(error)
                continue
            rates = _or_usual(axes, "background")
            cells += [
                dataclasses.replace(cell, background=rate, options=each)
                for rate, each in itertools.product(rates, options)
            ]
    return cells


def _most(axes: Mapping[str, Sequence[Any]]) -> int:
    """How many combinations there may be."""
    usual = {"topology": 0, "nat_a": len(presets.CLASSICS), "nat_b": len(presets.CLASSICS)}
    return math.prod(len(axes.get(name, ())) or usual.get(name, 1) for name in AXES)


def _nats(axes: Mapping[str, Sequence[Any]], kind: type[Internet]) -> list[tuple[str, str]]:
    """The pairs of NATs; where one NAT is in front of both hosts, only those in which both are the same."""
    usual = presets.named(kind.default_nats)
    nats_a = axes.get("nat_a") or usual
    nats_b = axes.get("nat_b") or (nats_a if kind.shared_nat else usual)
    pairs = itertools.product(nats_a, nats_b)
    return [(one, other) for one, other in pairs if one == other or not kind.shared_nat]


def _or_usual(axes: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    return axes.get(name) or _USUAL[name]


_OPTIONS = ("client", "strategy", "max_attempts", "deadline", "skew_ms")


def _options(
    client: str, strategy: str, max_attempts: int | None, deadline_s: float, skew_ms: float | None
) -> TrialOptions:
    return TrialOptions(
        client=CLIENTS[client],
        strategy=strategy,
        max_attempts=max_attempts,
        deadline_s=deadline_s,
        skew_s=None if skew_ms is None else skew_ms / 1000,
    )


def _words(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(",".join(pair) for pair in pairs)
