"""What a campaign has to run: cells, and the trials of each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from punchlab.lab.campaign.statistics import trials_that_suffice
from punchlab.lab.errors import InputError
from punchlab.lab.impair import CHOICES, Impairment, Links
from punchlab.lab.inputs import numbers
from punchlab.lab.trial.options import TrialOptions

if TYPE_CHECKING:
    from mininet.topo import Topo


SHAPE = ("cgn", "port_mapping", "delay", "jitter", "loss", "bw")
"""Parameters of topologies that a campaign may vary."""
DURATIONS = ("delay", "jitter")


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the axes: all that an outcome may depend on, except chance.

    `kind` makes the topology, called `topology` on the command line, from `shape` (its parameters that were given:
    of `SHAPE`, in Mininet's words), from nat_HOST for both hosts of `pair`, and from `unsolicited`.
    `background` is how many connections a second other hosts open through each NAT.
    """

    topology: str
    kind: Callable[..., Topo]
    pair: tuple[str, str]
    nats: tuple[str, str]
    unsolicited: str = "preset"
    shape: Mapping[str, Any] = field(default_factory=dict)
    background: float = 0.0
    options: TrialOptions = field(default_factory=TrialOptions)

    @property
    def id(self) -> str:
        """What its trials are called: the same in every campaign that has this cell, and in no other cell."""
        return "-".join([*self._scene(), *self.nats, *self._manner()])

    @property
    def combination(self) -> str:
        """The cell without its NATs: cells with the same one make a matrix."""
        return "-".join([*self._scene(), *self._manner()])

    def build(self) -> Topo:
        """A fresh topology. Raises `InputError`."""
        nats = {f"nat_{host}": nat for host, nat in zip(self.pair, self.nats, strict=True)}
        return self.kind(**nats, unsolicited=self.unsolicited, **self.shape)

    def axes(self) -> dict[str, Any]:
        """Where it lies on each axis, as plain data."""
        return {
            "topology": self.topology,
            "pair": list(self.pair),
            "nat_a": self.nats[0],
            "nat_b": self.nats[1],
            "unsolicited": self.unsolicited,
            **{name: self.shape.get(name) for name in SHAPE},
            "background_per_s": self.background,
            "client": self.options.client.name,
            "strategy": self.options.strategy,
            "max_attempts": self.options.max_attempts,
            "deadline_s": self.options.deadline_s,
            "skew_wanted_s": self.options.skew_s,
        }

    def _scene(self) -> list[str]:
        usual = self.pair in tuple(getattr(self.kind, "pairs", ()))[:1]
        return [self.topology] if usual else [self.topology, *self.pair]

    def _manner(self) -> list[str]:
        """What is not as it is by default has its name in it, so that no two cells are called the same."""
        options, usual = self.options, TrialOptions()
        words = [self.unsolicited, options.strategy]
        if options.client != usual.client:
            words.append(f"client_{options.client.name}")
        words += [f"{name}{_canonical(name, self.shape[name])}" for name in SHAPE if name in self.shape]
        if self.background:
            words.append(f"background{self.background:.9g}")
        if options.max_attempts != usual.max_attempts:
            words.append(f"attempts{options.max_attempts}")
        if options.deadline_s != usual.deadline_s:
            words.append(f"deadline{options.deadline_s:.9g}s")
        if options.skew_s is not None:
            words.append(f"skew{_milliseconds(options.skew_s)}")
        return words


@dataclass(frozen=True, slots=True)
class Job:
    """One trial of a cell: whatever runs it needs nothing else. `number` counts from 1."""

    cell: Cell
    number: int
    links: Links
    base_seed: int

    @property
    def id(self) -> str:
        """The name of the trial."""
        return trial_id(self.cell.id, self.number)

    @property
    def seed(self) -> int:
        """The seed of its links: it hangs on nothing but the campaign's seed, the cell and the number."""
        return self.base_seed ^ zlib.crc32(self.id.encode())


def trial_id(cell_id: str, number: int) -> str:
    """The name of a trial."""
    return f"{cell_id}-{number:03}"


@dataclass(frozen=True, slots=True)
class Campaign:
    """Cells, and how many trials each gets.

    `trials` of every cell; with `until_ci` (a half-width, 0.001 to 0.5) only until Wilson's interval of the cell's
    success rate is at most that wide to either side of its centre, but `min_trials` in any case, and `trials`, where
    given, at most. Raises `InputError`.
    """

    cells: Sequence[Cell]
    trials: int | None = None
    until_ci: float | None = None
    min_trials: int = 5
    links: Links = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number in (("trials", self.trials), ("min_trials", self.min_trials)):
            if number is not None:
                numbers.trials(name, number)
        if self.until_ci is not None:
            numbers.half_width("until_ci", self.until_ci)
        numbers.seed("seed", self.seed)
        if self.links not in CHOICES:
            raise InputError("links", self.links, f"one of {', '.join(CHOICES)}")
        seen: set[str] = set()
        for cell in self.cells:
            if cell.id in seen:
                raise InputError("cells", cell.id, "every combination once")
            seen.add(cell.id)

    @property
    def most(self) -> int:
        """The most trials that any cell can get."""
        if self.trials is not None:
            return self.trials
        return 5 if self.until_ci is None else max(self.min_trials, trials_that_suffice(self.until_ci))

    def job(self, cell: Cell, number: int) -> Job:
        """A trial of a cell."""
        return Job(cell, number, self.links, self.seed)

    def description(self) -> dict[str, Any]:
        """The campaign as plain data, for run.json: two runs are the same if these are equal.

        An axis with several values is a list of them.
        """
        axes: dict[str, list[Any]] = {}
        for cell in self.cells:
            for name, value in cell.axes().items():
                values = axes.setdefault(name, [])
                if value not in values:
                    values.append(value)
        return {
            "schema": 2,
            **{name: values[0] if len(values) == 1 else values for name, values in axes.items()},
            "cells": len(self.cells),
            "trials": self.most,
            "until_ci": self.until_ci,
            "min_trials": None if self.until_ci is None else self.min_trials,
            "links": self.links,
            "seed": self.seed,
        }


def _canonical(name: str, value: Any) -> str:
    """One spelling of a parameter: 20ms and 0.02s are the same."""
    if name in DURATIONS:
        return _milliseconds(Impairment.from_options({"delay": value}).delay_s)
    return value if isinstance(value, str) else f"{float(value):.9g}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.9g}ms"
