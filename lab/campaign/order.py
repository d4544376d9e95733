"""The order of the first trials of cells: each prefix covers every axis evenly.

If the cells are all combinations of their axes, every prefix of n cells contains each value of an axis of k values
floor(n/k) or ceil(n/k) times. The cells with the values (i, i, i, ...), each modulo the size of its axis, form one walk
through all values of every axis. Its length is the least common multiple of the sizes. Shifted walks contain the other
cells.

If topologies differ in their axes, this holds within each topology, and the topologies alternate: while each has cells
left, the counts of two values of a common axis differ by at most the number of topologies. If both hosts share one NAT,
the pair of NATs is one axis.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from punchlab.lab.campaign.cells import Cell

Axis = Callable[[Mapping[str, Any]], Hashable]
"""Values of a cell by axis -> its value on this axis."""


def balanced(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells in an order that depends only on the cells."""
    places = [cell.axes() for cell in cells]
    whole = _walks(cells, places)
    if whole is not None:
        return whole
    topologies: dict[str, list[int]] = {}
    for number, cell in enumerate(cells):
        topologies.setdefault(cell.topology, []).append(number)
    parts = []
    for numbers in topologies.values():
        some = [cells[number] for number in numbers]
        part = _walks(some, [places[number] for number in numbers])
        parts.append(_shuffled(some) if part is None else part)
    turns = itertools.zip_longest(*parts)
    return [cell for turn in turns for cell in turn if cell is not None]


def _walks(cells: Sequence[Cell], places: Sequence[Mapping[str, Any]]) -> list[Cell] | None:
    """Return the cells in walks; None if they are not all combinations of their axes."""
    for joined in ((), ("topology", "pair"), ("nat_a", "nat_b"), ("topology", "pair", "nat_a", "nat_b")):
        axes = [_axis(name) for name in places[0] if name not in joined] if places else []
        pairs = [joined[start : start + 2] for start in range(0, len(joined), 2)]
        axes += [_axis(*names) for names in pairs]
        values = [list(dict.fromkeys(map(axis, places))) for axis in axes]
        sizes = [len(each) for each in values]
        if math.prod(sizes) != len(cells):
            continue
        ranks = [{value: rank for rank, value in enumerate(each)} for each in values]
        at = {
            tuple(rank[axis(place)] for rank, axis in zip(ranks, axes, strict=True)): i
            for i, place in enumerate(places)
        }
        return [cells[at[place]] for place in _product(sizes)]
    return None


def _product(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Return every combination of 0 to size - 1, walk by walk."""
    length = math.lcm(*sizes)
    seen: set[tuple[int, ...]] = set()
    walks = []
    for start in itertools.product(*map(range, sizes)):
        if start not in seen:
            walk = [
                tuple((first + step) % size for first, size in zip(start, sizes, strict=True)) for step in range(length)
            ]
            seen.update(walk)
            walks.append(walk)
    # Neighbouring walks are alike; a shuffle spreads the combinations of two axes. The first one is the diagonal.
    rest = walks[1:]
    random.Random(0).shuffle(rest)
    return itertools.chain(*walks[:1], *rest)


def _axis(*names: str) -> Axis:
    return lambda place: tuple(repr(place[name]) for name in names)


def _shuffled(cells: Sequence[Cell]) -> list[Cell]:
    mixed = list(cells)
    random.Random(0).shuffle(mixed)
    return mixed
