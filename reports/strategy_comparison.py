"""Compare strategies under the same conditions, pair of NATs by pair of NATs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from punchlab.lab.campaign.exact import fisher_less, holm
from punchlab.reports.groups import SEPARATOR, Group, PairTrials, nat_order, slug_of

CHOOSER = "auto"
"""The strategy that is compared with each of the others."""
LEVEL = 0.01
"""Family-wise error rate."""
_ORDER = ("reuse", "keep", "sync", "lowttl", "predict", "birthday", "portmap")

Nats = tuple[str, str]


def strategy_order(name: str) -> tuple[int, int, str]:
    """Return the sort key: the chooser, then the known strategies from the simplest, then others by name."""
    known = name in _ORDER
    return (name != CHOOSER, _ORDER.index(name) if known else len(_ORDER), name)


@dataclass(frozen=True)
class StrategyComparison:
    """Groups that differ only in the strategy, in one setting; `label` is unique in the report."""

    label: str
    slug: str
    groups: Sequence[Group]

    @cached_property
    def strategies(self) -> list[str]:
        """Their strategies, in order."""
        return sorted(self._by_strategy, key=strategy_order)

    @cached_property
    def pairs(self) -> list[Nats]:
        """The pairs of NATs that any group has, from the most permissive to the strictest."""
        found = {(pair.nat_a, pair.nat_b) for group in self.groups for pair in group.pairs}
        return sorted(found, key=lambda nats: (nat_order(nats[0]), nat_order(nats[1])))

    def trials(self, strategy: str, nats: Nats) -> PairTrials | None:
        """Return the trials of a strategy for a pair of NATs; None without a measurement."""
        group = self._by_strategy.get(strategy)
        found = None if group is None else group.pair(*nats)
        return found if found is not None and found.n else None

    @cached_property
    def _by_strategy(self) -> dict[str, Group]:
        return {group.condition.strategy or "": group for group in self.groups}


def settings_of(groups: Iterable[Group]) -> list[StrategyComparison]:
    """Return the settings in which two or more strategies were run."""
    found: dict[object, list[Group]] = {}
    for group in groups:
        if group.condition.strategy is not None:
            found.setdefault(group.condition.setting, []).append(group)
    made: list[StrategyComparison] = []
    slugs: set[str] = set()
    for alike in found.values():
        if len(alike) > 1:
            strategy = f"strategy {alike[0].condition.strategy}"
            label = SEPARATOR.join(part for part in alike[0].label.split(SEPARATOR) if part != strategy)
            slug = slug_of(label)
            slug = f"{slug}-{len(slugs)}" if slug in slugs else slug
            slugs.add(slug)
            made.append(StrategyComparison(label, slug, alike))
    return made


@dataclass(frozen=True)
class Comparison:
    """The chooser and one other strategy, for one pair of NATs in one setting. `rejected`: the chooser is worse."""

    setting: StrategyComparison
    nats: Nats
    strategy: str
    chooser: PairTrials
    other: PairTrials
    p_value: float
    rejected: bool = False


def compare(found: Sequence[StrategyComparison]) -> list[Comparison]:
    """Compare the chooser with every other strategy in every cell: one family of one-sided Fisher's exact tests.

    The chooser is never worse than the best strategy if it is worse than none, so the best strategy need not be
    selected by the data that test it. A comparison is `rejected` if the hypothesis "the chooser's rate is
    not lower" is rejected at the family-wise `LEVEL` (Holm).
    """
    made = [
        Comparison(setting, nats, strategy, chooser, other, fisher_less(chooser.k, chooser.n, other.k, other.n))
        for setting in found
        for nats in setting.pairs
        if (chooser := setting.trials(CHOOSER, nats)) is not None
        for strategy in setting.strategies
        if strategy != CHOOSER and (other := setting.trials(strategy, nats)) is not None
    ]
    rejected = set(holm([each.p_value for each in made], LEVEL))
    return [replace(each, rejected=number in rejected) for number, each in enumerate(made)]


def verdict(comparisons: Sequence[Comparison]) -> str | None:
    """Return the result of the comparisons in one sentence; None without comparisons."""
    if not comparisons:
        return None
    cells = len({(id(each.setting), each.nats) for each in comparisons})
    least = min(comparisons, key=lambda each: each.p_value)
    worse = sorted({_cell(each) for each in comparisons if each.rejected})
    how = (
        f"{cells:,} cells, {len(comparisons):,} comparisons with single strategies, one-sided Fisher tests at a "
        f"family-wise {LEVEL:.0%} (Holm); least p = {least.p_value:.2g}"
    )
    if worse:
        return f"{CHOOSER} is worse than another strategy in {len(worse)} of {how}: {'; '.join(worse)}."
    return f"{CHOOSER} is nowhere worse than the best strategy: {how}."


def _cell(each: Comparison) -> str:
    return (
        f"{each.chooser.name} ({each.setting.label}): {each.chooser.k}/{each.chooser.n}, "
        f"{each.strategy} {each.other.k}/{each.other.n}"
    )
