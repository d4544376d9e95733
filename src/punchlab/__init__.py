"""punchlab: an Internet in a box. Everything here and in `punchlab.topologies` is the public API; the rest is private.

Names are imported when they are used first, so that `import punchlab` costs next to nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # importing `typing` would double the time of this import
if TYPE_CHECKING:
    from typing import Any

    from punchlab.lab.client.description import PUNCH, Client
    from punchlab.lab.confinement.shares import Share
    from punchlab.lab.errors import ClientError, InputError, LabError, MissingCapabilityError, PunchlabError
    from punchlab.lab.lab import Lab
    from punchlab.lab.nat.state import NodeState
    from punchlab.lab.process.forked import Function
    from punchlab.lab.trial.record import record
    from punchlab.lab.trial.trial import Trial
    from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation

__all__ = [
    "PUNCH",
    "Client",
    "ClientError",
    "FilteringBehavior",
    "Function",
    "InputError",
    "Lab",
    "LabError",
    "MappingBehavior",
    "MissingCapabilityError",
    "NatBehavior",
    "NodeState",
    "PortAllocation",
    "PunchlabError",
    "Share",
    "Trial",
    "record",
]

_MODULES = {
    "punchlab.lab.client.description": ("PUNCH", "Client"),
    "punchlab.lab.confinement.shares": ("Share",),
    "punchlab.lab.errors": ("ClientError", "InputError", "LabError", "MissingCapabilityError", "PunchlabError"),
    "punchlab.lab.lab": ("Lab",),
    "punchlab.lab.nat.state": ("NodeState",),
    "punchlab.lab.process.forked": ("Function",),
    "punchlab.lab.trial.record": ("record",),
    "punchlab.lab.trial.trial": ("Trial",),
    "punchlab.punch.nat.behavior": ("FilteringBehavior", "MappingBehavior", "NatBehavior", "PortAllocation"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULE_OF[name])
    except ModuleNotFoundError:
        importlib.import_module("punchlab.lab.kernel.packages").require()
        raise
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
