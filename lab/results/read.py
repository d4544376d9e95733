"""Read result records: JSON objects, checked against the schema, of schema 1 as well."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

from punchlab.lab.errors import InputError
from punchlab.lab.kernel.pressure import SPARE
from punchlab.lab.results.fields import fields
from punchlab.lab.results.schema import SCHEMA, TrialResult, upgrade
from punchlab.punch.text import printable_parts

_DEEPEST = 100
"""Levels of nested objects and arrays in a record."""
_SHORT_LINE = 4096
"""Bytes of a line in which no text is longer than `printable_parts` allows."""
_PLACE = re.compile(r"`\$((?:\.\w+)*)")
_MISSING = re.compile(r"missing required field `(\w+)`")
_OLD_NAMES = {"outcome_prediction": "prediction", "srflx_attempts": "attempts"}
"""Names of schema 1."""

Result = TypeVar("Result", bound=TrialResult)


def json_object(text: bytes) -> dict[str, Any]:
    """Return `text` as a JSON object. Raises `ValueError` if it is not one or has more than 100 levels."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.ValidationError:  # a number out of the range of a float; the schema check names its field
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # raises ValueError for half of a surrogate pair
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if text.count(b"{") + text.count(b"[") > _DEEPEST and _depth(value) > _DEEPEST:
        raise ValueError("nested too deeply")
    return value


def printable_object(text: bytes) -> dict[str, Any]:
    """Return `json_object` with every text in it as `punch.text.printable` makes it. Raises as `json_object`."""
    value = json_object(text)
    if text.isascii() and not any(part in text for part in (b"\\", b"\x7f", b"##")) and len(text) <= _SHORT_LINE:
        return value  # nothing to escape
    return cast("dict[str, Any]", printable_parts(value))


def current(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record, which is changed in place if it is one of schema 1."""
    if record.get("schema") == 1:
        upgrade(record, SPARE)
    return record


def result(record: dict[str, Any], kind: type[Result], where: str) -> Result:
    """Return the record as a `kind`; a record of schema 1 is changed in place.

    Raises `InputError` that names `where` and the field.
    """
    old = record.get("schema") == 1
    try:
        return msgspec.convert(current(record), kind)
    except msgspec.ValidationError as error:
        names = _path(str(error))
        value: Any = record
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        expected = f"1 or {SCHEMA}" if names == ["schema"] else fields(kind)[".".join(names)].expected
        shown = [_OLD_NAMES.get(name, name) for name in names] if old else names
        raise InputError(": ".join((where, *shown)), value, expected) from None


def _path(message: str) -> list[str]:
    """Return the names of the field that an error of msgspec is about."""
    place, missing = _PLACE.search(message), _MISSING.search(message)
    names = place[1].split(".")[1:] if place else []
    return [*names, missing[1]] if missing else names


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for several in inner for each in several]
    return deepest
