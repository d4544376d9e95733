"""Dependencies point one way: scenarios and reports -> topologies -> lab -> punch.nat -> punch.text.

`punch.text` and `punch.stdio` are what both sides print by: the one place for text from outside.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "punch/text.py": set[str](),
    "punch/stdio.py": {"punch.text"},
    "punch/suggestion.py": set[str](),
    "punch/nat": {"punch.nat", "punch.text"},
    "punch": {"punch"},
    "lab": {"lab", "punch.nat", "punch.text", "punch.stdio", "punch.suggestion"},
    "topologies": {"topologies", "lab", "punch.nat", "punch.text"},
    "reports": {"reports", "lab", "punch.text"},
}
OURS = ("punch", "lab", "topologies", "scenarios", "reports", "tests")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    files = [
        file
        for file in ([ROOT / package] if package.endswith(".py") else (ROOT / package).rglob("*.py"))
        # The command line is the composition root: it alone knows everything.
        if not file.is_relative_to(ROOT / "lab" / "cli")
        and not (package == "punch" and file.is_relative_to(ROOT / "punch" / "nat"))
    ]
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file)
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package])
    }
    assert wrong == set()
