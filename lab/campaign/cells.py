"""The cells of a campaign, and the trials of each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from punchlab.lab.campaign.statistics import trials_that_suffice
from punchlab.lab.errors import InputError
from punchlab.lab.impair import CHOICES, Links
from punchlab.lab.inputs import numbers
from punchlab.lab.results.axes import ALWAYS_IN_ID, AXES, ID_ORDER
from punchlab.lab.trial.options import TrialOptions

if TYPE_CHECKING:
    from mininet.topo import Topo


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the axes: everything that an outcome depends on, except chance.

    `kind` is the class of the topology, `topology` its name on the command line. Its parameters are `shape` (in
    Mininet's words), nat_HOST for both hosts of `pair`, and `unsolicited`. `background`: connections per second that
    other hosts open through each NAT.
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
        """The prefix of the names of its trials: unique, and the same in every campaign that has this cell."""
        return "-".join([*self._topology_words(), *self.nats, *self._options_words()])

    @property
    def combination(self) -> str:
        """The id without the NATs: cells with the same combination form a matrix."""
        return "-".join([*self._topology_words(), *self._options_words()])

    def build(self) -> Topo:
        """Return a new topology. Raises `InputError`."""
        nats = {f"nat_{host}": nat for host, nat in zip(self.pair, self.nats, strict=True)}
        return self.kind(**nats, unsolicited=self.unsolicited, **self.shape)

    def axes(self) -> dict[str, Any]:
        """Return its value on each axis as plain data, by the key in run.json."""
        return {axis.key: axis.value(self) for axis in AXES.values()}

    def _topology_words(self) -> list[str]:
        usual = self.pair in tuple(getattr(self.kind, "pairs", ()))[:1]
        return [self.topology] if usual else [self.topology, *self.pair]

    def _options_words(self) -> list[str]:
        """Return a word for every value that is not the usual one, so that no two cells have the same id."""
        values = ((AXES[name], AXES[name].value(self)) for name in ID_ORDER)
        return [
            axis.word(value)
            for axis, value in values
            if axis.name in ALWAYS_IN_ID or (value is not None and value != axis.usual)
        ]


@dataclass(frozen=True, slots=True)
class Job:
    """One trial of a cell, with everything that is needed to run it. `number` counts from 1."""

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
        """The seed of its links; it depends only on the seed of the campaign, the cell and the number."""
        return self.base_seed ^ zlib.crc32(self.id.encode())


def trial_id(cell_id: str, number: int) -> str:
    """Return the name of a trial."""
    return f"{cell_id}-{number:03}"


@dataclass(frozen=True, slots=True)
class Campaign:
    """Cells, and the number of trials of each.

    Each cell has `trials` trials. With `until_ci` (0.001 to 0.5) a cell stops when the half-width of Wilson's interval
    of its success rate is at most that, after at least `min_trials` and, if given, at most `trials` trials. Raises
    `InputError`.
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
        """The maximum number of trials of a cell."""
        if self.trials is not None:
            return self.trials
        return 5 if self.until_ci is None else max(self.min_trials, trials_that_suffice(self.until_ci))

    def job(self, cell: Cell, number: int) -> Job:
        """Return a trial of a cell."""
        return Job(cell, number, self.links, self.seed)

    def description(self) -> dict[str, Any]:
        """Return the campaign as plain data, for run.json: runs with equal descriptions are the same run.

        The value of an axis with several values is a list.
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
