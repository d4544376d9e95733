"""Encodes and decodes frames: JSON objects that are declared as dataclasses.

A frame class has the `TYPE` that is its "type" in JSON. The annotation of each field is `Annotated` with its
`FieldType`. A field with a default may be absent; if the default is None it may also be null, and None is not encoded.
Everything that comes from outside is decoded here, which checks each field, so that decoded frames are valid. Unknown
fields are ignored. The cost of decoding is linear in the size of the frame, which the receiver bounds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, get_type_hints, overload

from punchlab.punch.errors import FrameError
from punchlab.punch.fields import FieldType, Json, checked, short


class Frame(Protocol):
    """A dataclass that declares a frame."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    TYPE: ClassVar[str]


F = TypeVar("F", bound=Frame)
G = TypeVar("G", bound=Frame)


class Field(NamedTuple):
    """One field of a frame class; `inline` is the class whose fields stand in its place."""

    name: str
    kind: FieldType
    has_default: bool
    omits_none: bool
    inline: type[Any] | None

    @property
    def optional(self) -> bool:
        """Whether the field may be absent."""
        return self.has_default or not self.kind.required


def encode(frame: Frame) -> str:
    """Return a frame as text."""
    return json.dumps(_to_json(frame), separators=(",", ":"))


@overload
def decode(frame: str | bytes, one: type[F], /) -> F: ...
@overload
def decode(frame: str | bytes, one: type[F], other: type[G], /) -> F | G: ...
def decode(frame: str | bytes, /, *classes: type[Any]) -> Any:
    """Return the frame in a text, which must be one of `classes`. Raises `FrameError`."""
    if not isinstance(frame, str):
        raise FrameError("expected a text frame, got a binary one")
    try:
        value = json.loads(frame)
    except (ValueError, RecursionError):
        raise FrameError("malformed JSON") from None
    if not isinstance(value, dict):
        raise FrameError("expected a JSON object")
    return _decode_one(value, classes, "type")


def variant(*classes: type[Any]) -> FieldType:
    """An object with a "type", that of one of `classes`."""

    expected = f"an object of type {_types(classes)}"
    return checked(expected, _is_object, lambda value: _decode_one(value, classes, "body type"), _to_json)


def struct(cls: type[Any]) -> FieldType:
    """An object with the fields of a dataclass."""

    return checked(
        f"a {cls.__name__.lower()} object", _is_object, lambda value: _from_json(cls, value), _fields_to_json
    )


def _types(classes: Sequence[type[Frame]]) -> str:
    return " or ".join(cls.TYPE for cls in classes)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


class Inline:
    """The annotation of a field whose value is a dataclass, the fields of which are fields of the frame itself."""


_known: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """Return the fields of a dataclass, in order."""
    if cls not in _known:
        _known[cls] = tuple(_fields(cls))
    return _known[cls]


def _fields(cls: type[Any]) -> Iterator[Field]:
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        annotated = hints[field.name]
        mark = annotated.__metadata__[0]
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        omits_none = field.default is None
        inline = annotated.__origin__ if mark is Inline else None
        kind = struct(inline) if inline is not None else mark
        if omits_none and kind.only_with is None:
            kind = kind.or_absent
        yield Field(field.name, kind, has_default, omits_none, inline)


def _to_json(frame: Frame) -> Json:
    return {"type": frame.TYPE, **_fields_to_json(frame)}


def _fields_to_json(frame: Any) -> Json:
    written: Json = {}
    for field in fields_of(type(frame)):
        value = getattr(frame, field.name)
        if field.inline is not None:
            written.update(_fields_to_json(value))
        elif value is not None or not field.omits_none:
            written[field.name] = field.kind.write(value)
    return written


def _decode_one(value: Json, classes: Sequence[type[F]], name: str) -> F:
    kind = value.get("type")
    for cls in classes:
        if kind == cls.TYPE:
            return _from_json(cls, value)
    raise FrameError(f"unexpected {name} {short(kind)}; expected {_types(classes)}")


def _from_json(cls: type[F], value: Json) -> F:
    read: Json = {}
    for field in fields_of(cls):
        name, kind = field.name, field.kind
        if field.inline is not None:
            read[name] = _from_json(field.inline, value)
        elif kind.only_with is not None and read.get(kind.only_with) is None:
            continue
        elif name in value:
            read[name] = kind.read(name, value[name])
        elif not field.optional or kind.only_with is not None:
            raise FrameError(f"{name}: missing; expected {kind.describe()}")
        elif not field.has_default:
            read[name] = None
    return cls(**read)
