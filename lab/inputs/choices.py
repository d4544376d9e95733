"""Validate choices and node names.

All validators raise `InputError`, which names the field, the value and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from punchlab.lab.errors import InputError
from punchlab.punch import suggestion

INTERFACE_NAME_LENGTH = 15
"""The limit of the kernel."""

_Word = TypeVar("_Word", bound=str)
_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


def one_of(field: str, value: object, choices: Iterable[_Word]) -> _Word:
    """Return the value if it is one of the choices."""
    known = list(dict.fromkeys(choices))
    for each in known:
        if each == value:
            return each
    raise InputError(field, value, suggestion.one_of(value, known))


def flag(field: str, value: object) -> bool:
    """Return the value if it is True or False. 1 and 0 are invalid."""
    if isinstance(value, bool):
        return value
    raise InputError(field, value, "True or False")


def node_name(field: str, value: object, *, longest: int, because: str) -> str:
    """Return the value if it is a node name: ASCII letters, digits and `_`, after the first character also `.` and
    `-`.
    """
    if not isinstance(value, str) or not _NODE_NAME.fullmatch(value):
        raise InputError(field, value, "a name of letters, digits, _, . and - that does not begin with . or -")
    if len(value) > longest:
        raise InputError(field, value, f"a name of at most {longest} characters, because {because}")
    return value
