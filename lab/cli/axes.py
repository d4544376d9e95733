"""A campaign from options or a file: every value is checked, and all errors are reported at once."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from punchlab.lab.campaign import Campaign, Cell
from punchlab.lab.cli import campaign_file
from punchlab.lab.client.description import CLIENTS
from punchlab.lab.errors import InputError, SeveralInputsError
from punchlab.lab.impair import CHOICES
from punchlab.lab.inputs import numbers
from punchlab.lab.inputs.choices import one_of
from punchlab.lab.nat import presets
from punchlab.lab.results.axes import AXES, SHAPE, Reader, nat_groups
from punchlab.lab.trial.options import TrialOptions
from punchlab.punch.suggestion import suggestion
from punchlab.topologies import TOPOLOGIES
from punchlab.topologies.internet import Internet

MOST_CELLS = 100_000
_LONGEST_WORD = 100
"""Characters of an unknown key that an error shows."""


def _pair(field: str, value: object) -> tuple[str, str]:
    known = list(dict.fromkeys(pair for kind in TOPOLOGIES.values() for pair in kind.pairs))
    names = tuple(value.split(",")) if isinstance(value, str) else ()
    for one, other in known:
        if names in ((one, other), (other, one)):
            return names[0], names[1]
    raise InputError(field, value, f"one of {_words(known)}, in either order")


READERS: Mapping[str, Reader] = {
    "topology": lambda field, value: one_of(field, value, TOPOLOGIES),
    "pair": _pair,
    **{axis.name: axis.read for axis in AXES.values() if axis.read is not None},
}
SINGLE: Mapping[str, Reader] = {
    "trials": numbers.trials,
    "until_ci": numbers.half_width,
    "min_trials": numbers.trials,
    "links": lambda field, value: one_of(field, value, CHOICES),
    "seed": numbers.seed,
}
"""The fields that have one value for the whole campaign; all but `links` are numbers."""
_OPTIONS_ONLY = ("jobs", "budget", "out")


@dataclass(frozen=True, slots=True)
class _Given:
    """A field with its value, and the file and line that set it (empty for an option)."""

    name: str
    value: object
    where: str = ""

    def error(self, value: object, expected: str) -> InputError:
        return InputError(self.where + self.name, value, expected)


def campaign(given: argparse.Namespace) -> Campaign:
    """Return the campaign of `punchlab run`. Options override the file. Raises `SeveralInputsError`."""
    errors: list[InputError] = []
    fields, malformed = _fields(given, errors)
    axes = {name: _values(fields[name], reader, errors) for name, reader in READERS.items() if name in fields}
    single = {}
    for name, reader in SINGLE.items():
        if name in fields:
            with suppress(ValueError):
                single[name] = _one(fields[name], fields[name].value, reader, errors)
    if "topology" not in fields and "topology" not in malformed:
        errors.append(InputError(f"{given.topology}: topology", None, f"one of {', '.join(TOPOLOGIES)}"))
    # The values without errors are checked together.
    cells = _cells(axes, fields, errors) if "topology" in fields else []
    if not errors:
        try:
            return Campaign(cells, **single)
        except InputError as error:
            errors.append(fields[error.field].error(error.value, error.expected) if error.field in fields else error)
    once = {str(error): error for error in errors}.values()
    raise SeveralInputsError(sorted(once, key=_line))


def _line(error: InputError) -> int:
    """Return the line of the campaign file to which an error refers; 0 for an option."""
    found = re.search(r":(\d+)(?=:|$)", error.field)
    return int(found[1]) if found else 0


def name(given: argparse.Namespace) -> str:
    """Return the name of the campaign: that of its file, or its topologies and strategies."""
    if _is_file(given.topology):
        return Path(given.topology).stem
    return f"{given.topology}-{given.strategy or AXES['strategy'].usual}".replace(",", "+")


def _is_file(word: str) -> bool:
    return word.endswith(".toml") or "/" in word


def _fields(given: argparse.Namespace, errors: list[InputError]) -> tuple[dict[str, _Given], set[str]]:
    """Return the fields of the file and the options, and the keys of lines that are not valid TOML."""
    fields: dict[str, _Given] = {}
    malformed: set[str] = set()
    flags = {name: getattr(given, name, None) for name in (*AXES, *SINGLE)}
    if _is_file(given.topology):
        del flags["topology"]
        file = campaign_file.read(Path(given.topology))
        errors += file.errors
        malformed = file.broken
        for key, value in file.values.items():
            where = f"{file.path}:{file.lines[key]}: "
            if key in AXES or key in SINGLE:
                fields[key] = _Given(key, value, where)
            else:
                errors.append(_unknown(key, where))
    for name, value in flags.items():
        if value is not None:
            fields[name] = _Given(name, _from_words(name, value))
    return fields, malformed


def _unknown(key: str, where: str) -> InputError:
    known = (*AXES, *SINGLE)
    near = suggestion(key, known)
    if key in _OPTIONS_ONLY:
        hint = f"a field of campaigns; {key} is an option, --{key}"
    elif near:
        hint = f"a field{near}"
    else:
        hint = f"one of {', '.join(known)}"
    return InputError(where + key[:_LONGEST_WORD], key, hint)


def _from_words(name: str, value: str | Sequence[str]) -> object:
    """Return the value of an option as a campaign file would have it."""
    words = list(value) if not isinstance(value, str) else value.split(",") if name in AXES else [value]
    number = AXES[name].number if name in AXES else name != "links"
    values = [numbers.of_text(word) if number else word for word in words]
    return values if name in AXES else values[0]


def _values(field: _Given, reader: Reader, errors: list[InputError]) -> list[Any]:
    """Return the values of an axis; append errors to `errors`."""
    given = field.value if isinstance(field.value, list) else [field.value]
    if not given:
        errors.append(field.error(given, "at least one value"))
    groups = nat_groups() if field.name in ("nat_a", "nat_b") else {}
    values: list[Any] = []
    seen: set[str] = set()
    for value in given:
        with suppress(ValueError):
            read = _one(field, value, reader, errors)
            if groups and read in groups:
                values += groups[read]
            elif _sameness(field.name, read) in seen:
                errors.append(field.error(value, "every value once"))
            else:
                seen.add(_sameness(field.name, read))
                values.append(read)
    return list(dict.fromkeys(values))  # a NAT may be named both directly and by a group


def _sameness(name: str, value: Any) -> str:
    return AXES[name].word(value) if AXES[name].metavar == "TIME" else json.dumps(value)


def _one(field: _Given, value: object, reader: Reader, errors: list[InputError]) -> Any:
    try:
        return reader(field.name, value)
    except InputError as error:
        errors.append(field.error(value, error.expected))
        raise


def _cells(axes: Mapping[str, Sequence[Any]], fields: Mapping[str, _Given], errors: list[InputError]) -> list[Cell]:
    """Return every combination that can be built; append the errors of the others to `errors`."""

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
                put(InputError(name, value, f"no value: the topology {topology} has no {name}"))
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
                    "nat_b",
                    ", ".join(axes["nat_b"]),
                    f"a value of nat_a: in {topology} both hosts are behind the same NAT",
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
    """Return the maximum number of combinations."""
    usual = {"topology": 0, "nat_a": len(presets.CLASSICS), "nat_b": len(presets.CLASSICS)}
    return math.prod(len(axes.get(name, ())) or usual.get(name, 1) for name in AXES)


def _nats(axes: Mapping[str, Sequence[Any]], kind: type[Internet]) -> list[tuple[str, str]]:
    """Return the pairs of NATs; if one NAT is in front of both hosts, only pairs of equal NATs."""
    usual = presets.named(kind.default_nats)
    nats_a = axes.get("nat_a") or usual
    nats_b = axes.get("nat_b") or (nats_a if kind.shared_nat else usual)
    pairs = itertools.product(nats_a, nats_b)
    return [(one, other) for one, other in pairs if one == other or not kind.shared_nat]


def _or_usual(axes: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    return axes.get(name) or [AXES[name].usual]


def _options(
    client: str, strategy: str, max_attempts: int | None, deadline: float, skew_ms: float | None
) -> TrialOptions:
    return TrialOptions(
        client=CLIENTS[client],
        strategy=strategy,
        max_attempts=max_attempts,
        deadline_s=deadline,
        skew_s=None if skew_ms is None else skew_ms / 1000,
    )


_OPTIONS = tuple(inspect.signature(_options).parameters)
"""The axes that are options of the trial."""


def _words(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(",".join(pair) for pair in pairs)
