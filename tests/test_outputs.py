"""Nothing gets round the places that make text from outside safe to show: errors, standard streams, tables, reports."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import lab, punch
from punchlab.lab.errors import PunchlabError, SeveralInputsError
from punchlab.punch.errors import PunchError
from tests.plain import HOSTILE, assert_plain_line

ROOT = Path(__file__).parent.parent
PACKAGES = ("punch", "lab", "topologies", "reports", "scenarios", "bench")
GUARDED = {
    "rich.console.Console": {"lab/cli/screen.py", "punch/transfer/progress.py"},
    "punchlab.punch.stdio.unguarded": {"lab/cli/screen.py", "punch/transfer/progress.py"},
    "punchlab.punch.stdio.settle": {  # in every process of ours that has the terminal
        *("lab/cli/__init__.py", "punch/cli/__init__.py"),
        *("lab/campaign/workers.py", "lab/campaign/machines/runner.py"),
    },
    "rich.print": set[str](),
    "html.escape": set[str](),
    "csv.writer": {"reports/table.py"},
    "csv.DictWriter": set[str](),
    "sys.__stdout__": set[str](),
    "sys.__stderr__": set[str](),
    "sys.stdout.buffer": set[str](),
    "sys.stderr.buffer": set[str](),
}
"""What must be used with care -> the modules that do; all others use those modules."""


def used(file: Path) -> Iterator[str]:
    """The full names of what a module imports or uses of a module that it imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


@pytest.mark.parametrize("name", GUARDED)
def test_outputs_are_used_only_where_text_is_made_safe(name: str) -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    users = {str(file.relative_to(ROOT)) for file in files if name in used(file)}
    assert users == GUARDED[name]


def kinds(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def test_every_error_of_the_project_is_one_plain_line_whatever_it_quotes() -> None:
    for package in (punch, lab):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "punchlab.lab.cli.ask", "pytest_sandbox")):
                importlib.import_module(module.name)
    found = {kind for base in (PunchError, PunchlabError) for kind in kinds(base)} - {SeveralInputsError}
    assert len(found) > 20
    for kind in found:
        parameters = inspect.signature(kind).parameters
        if any(each.kind is each.VAR_POSITIONAL for each in parameters.values()):
            error = kind(HOSTILE, HOSTILE)
        else:
            needed = [name for name, each in parameters.items() if each.default is each.empty] or list(parameters)[:1]
            error = kind(**dict.fromkeys(needed, HOSTILE))
        assert_plain_line(f"{error}\n")
        assert "owned" in str(error), kind
