"""How this project is started when the user has modules of the same names, such as a `lab.py` in the project's folder.

    python -P punchlab_entry.py MODULE WORD...      runs a module of this project

Importing this module makes `lab` and `punch` mean this project's packages, however the search path is ordered, and
`take_names` does so for others. The module is in the folder of the packages, and no module of a user has its name.
Raises ImportError where one of the names is taken already.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).resolve().parent

LIBRARY = ("lab", "punch")
"""What a program that uses the lab needs."""
EVERYTHING = (*LIBRARY, "topologies", "reports")
"""What the command line needs."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds packages of this project, and nothing else."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or target is not None or fullname not in self.names:
            return None
        folder = _FOLDER / fullname
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


_finder = _Finder()


def take_names(*names: str) -> None:
    """From now on, importing one of these packages imports this project's."""
    for name in names:
        if name in _finder.names:
            continue
        there = getattr(sys.modules.get(name), "__file__", None)
        if there is not None and Path(there).resolve().parent != _FOLDER / name:
            raise ImportError(f"the name {name} is taken by {there}, which was imported before punchlab")
    _finder.names.update(names)


def taken_names() -> frozenset[str]:
    """The names that mean this project's packages."""
    return frozenset(_finder.names)


def punchlab() -> int:
    """The command `punchlab`."""
    take_names(*EVERYTHING)
    from lab.cli import main

    return main()


take_names(*LIBRARY)
sys.meta_path.insert(0, _finder)

if __name__ == "__main__":
    del sys.argv[0]
    sys.modules["punchlab_entry"] = sys.modules["__main__"]  # runpy gives the name __main__ to the module that it runs
    # The fork server runs functions of the user, whose project may have modules of the other names.
    if sys.argv[0] != "lab.forkserver":
        take_names(*EVERYTHING)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
