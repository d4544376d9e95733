"""All strategies by name. Each is imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from punchlab.punch.strategy.context import Strategy

DEFAULT = "auto"

_CLASSES = {
    "auto": ("punchlab.punch.strategy.auto", "Auto"),
    "reuse": ("punchlab.punch.strategy.reuse", "Reuse"),
    "keep": ("punchlab.punch.strategy.keep", "Keep"),
    "sync": ("punchlab.punch.strategy.sync", "Sync"),
    "lowttl": ("punchlab.punch.strategy.lowttl", "LowTtl"),
    "predict": ("punchlab.punch.strategy.predict", "Predict"),
    "birthday": ("punchlab.punch.strategy.birthday", "Birthday"),
    "portmap": ("punchlab.punch.strategy.portmap", "Portmap"),
}


class _Catalog(Mapping[str, type[Strategy]]):
    def __getitem__(self, name: str) -> type[Strategy]:
        module, kind = _CLASSES[name]
        found: type[Strategy] = getattr(importlib.import_module(module), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


STRATEGIES: Mapping[str, type[Strategy]] = _Catalog()
