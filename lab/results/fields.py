"""The fields of a schema: dotted names, types, and the words for both."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import inspect


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record; `name` is dotted for a field of an object. `values` are the only ones allowed, if any."""

    name: str
    type: inspect.Type
    required: bool
    nullable: bool
    description: str
    format: str
    values: tuple[Any, ...]

    @property
    def expected(self) -> str:
        """The values that the field can have, in words."""
        return f"{self._words()}{', or null' if self.nullable else ''}"

    def _words(self) -> str:
        if self.values:
            return ("one of " if len(self.values) > 1 else "") + ", ".join(map(str, self.values))
        match self.type:
            case inspect.StrType():
                return "a time (ISO 8601)" if self.format else "text"
            case inspect.BoolType():
                return "true or false"
            case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
                name = "a whole number" if isinstance(self.type, inspect.IntType) else "a number"
                # Limits of the machine's numbers are not worth a word.
                low = "" if least is None or abs(least) > 2**62 else f" from {least:g}"
                return name + low + ("" if most is None or most > 2**62 else f" to {most:g}")
            case inspect.TupleType(item_types=items):
                return f"a list of {len(items)} texts"
            case inspect.ListType():
                return "a list of texts"
        return "an object"


@functools.cache
def fields(record: type) -> Mapping[str, Field]:
    """The fields of a struct type, each object before its own fields; keys are dotted names."""
    return {field.name: field for field in _fields(inspect.type_info(record), "")}


def _fields(record: inspect.Type, prefix: str) -> Iterator[Field]:
    assert isinstance(record, inspect.StructType)
    for field in record.fields:
        found, schema = _unwrapped(field.type)
        several = found.types if isinstance(found, inspect.UnionType) else (found,)
        (inner,) = (_unwrapped(each)[0] for each in several if not isinstance(each, inspect.NoneType))
        yield Field(
            name=prefix + field.encode_name,
            type=inner,
            required=field.required,
            nullable=len(several) > 1,
            description=schema.get("description", ""),
            format=schema.get("format", ""),
            values=tuple(inner.values) if isinstance(inner, inspect.LiteralType) else (),
        )
        if isinstance(inner, inspect.StructType):
            yield from _fields(inner, f"{prefix}{field.encode_name}.")


def _unwrapped(type_: inspect.Type) -> tuple[inspect.Type, Mapping[str, Any]]:
    if isinstance(type_, inspect.Metadata):
        return type_.type, type_.extra_json_schema or {}
    return type_, {}
