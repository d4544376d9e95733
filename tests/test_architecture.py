"""Dependencies point one way, without cycles: scenarios -> reports -> topologies -> lab -> punch.nat -> punch.text.

`punch.text` and `punch.stdio` are what both sides print by: the one place for text from outside.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("punch", "lab", "topologies", "reports")
ALLOWED = {
    "punch.text": set[str](),
    "punch.stdio": {"punch.text"},
    "punch.nat": {"punch.nat", "punch.text", "punch.suggestion"},
    "punch.suggestion": set[str](),
    "punch": {"punch"},
    "lab": {"lab", "punch.nat", "punch.text", "punch.stdio", "punch.suggestion"},
    "topologies": {"topologies", "lab", "punch.nat", "punch.text"},
    "reports": {"reports", "lab", "punch.text"},
}
MOST_MODULES_IN_LAB = 8


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}


def imports(file: Path) -> set[str]:
    """The modules of this project that a module imports, also late or for its types only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            inner = name.removeprefix("punchlab.")
            if inner != name:
                found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return (found & MODULES.keys()) - {name_of(file)}


IMPORTS = {name: imports(file) for name, file in MODULES.items()}


def folder_of(module: str) -> str:
    """The folder that a module is in, as deep as two names; a module directly in a top folder is one by itself."""
    return ".".join(module.split(".")[:2])


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    inner = [other for other in ALLOWED if is_in(other, package) and other != package]
    modules = [
        name
        for name in MODULES
        # The command line is the composition root: it alone knows everything.
        if is_in(name, package) and not is_in(name, "lab.cli") and not any(is_in(name, other) for other in inner)
    ]
    assert modules
    wrong = {
        f"{name} imports {imported}"
        for name in modules
        for imported in IMPORTS[name]
        if not any(is_in(imported, allowed) for allowed in ALLOWED[package])
    }
    assert wrong == set()


def assert_no_cycle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_import_cycle_of_modules() -> None:
    assert_no_cycle(IMPORTS)


def test_no_import_cycle_of_folders() -> None:
    folders: dict[str, set[str]] = {}
    for name, imported in IMPORTS.items():
        folders.setdefault(folder_of(name), set()).update(map(folder_of, imported))
    assert_no_cycle({folder: others - {folder} for folder, others in folders.items()})


def test_the_folders_of_the_lab_are_its_map() -> None:
    assert len(list((ROOT / "lab").glob("*.py"))) <= MOST_MODULES_IN_LAB


def test_the_package_consists_of_the_folders() -> None:
    package = ROOT / "src" / "punchlab"
    assert {path.name for path in package.iterdir() if path.is_symlink()} == set(FOLDERS)
    assert all((package / name).resolve() == ROOT / name for name in FOLDERS)
