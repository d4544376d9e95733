"""The page of the Python API. mkdocstrings inserts the docstrings and signatures when it builds the site."""

from __future__ import annotations

import json

from docs.generate import names


def page() -> str:
    """The page."""
    parts = [
        "# Python API",
        "These are the public classes. [Your first lab in ten minutes](../tutorial.md) shows how to use them.",
    ]
    for title, objects in names.PYTHON_API.items():
        parts.append(f"## {title}")
        parts += map(_object, objects)
    return "\n\n".join(parts) + "\n"


def _object(name: str) -> str:
    lines = [f"::: {name}"]
    if options := names.PYTHON_OPTIONS.get(name):
        # JSON is YAML.
        lines += ["    options:", *(f"      {option}: {json.dumps(value)}" for option, value in options.items())]
    return "\n".join(lines)
