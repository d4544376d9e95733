"""The schema for others: as a JSON Schema, and as a table for the documentation."""

from __future__ import annotations

from typing import Any

import msgspec

from punchlab.lab.results.fields import fields
from punchlab.lab.results.schema import TrialResult

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line of `results.jsonl`, and of what `punchlab trial --json` prints."""
    return {"$schema": _DIALECT, "title": "Result record of a punchlab trial", **msgspec.json.schema(TrialResult)}


def field_table() -> str:
    """Return a table of all fields in GitHub-flavoured Markdown: name, type, meaning."""
    rows = [(f"`{field.name}`", field.expected, field.description) for field in fields(TrialResult).values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (("field", "type", "meaning"), ("---",) * 3, *rows)) + "\n"
