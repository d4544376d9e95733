"""What can go wrong in the lab, as exceptions that a caller can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from punchlab.punch.text import LONGEST_VALUE, printable, shown


class PunchlabError(Exception):
    """Base of every error that this project raises on purpose; its text is one clear line, whatever it quotes."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class InputError(PunchlabError, ValueError):
    """Something the user typed cannot be used, or is missing: the field, the value (None) and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        problem = "missing" if value is None else f"{shown(value)} cannot be used"
        super().__init__(f"{printable(field, LONGEST_VALUE)}: {problem}; expected {expected}")

    def __reduce__(self) -> tuple[type[Self], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.expected)


class SeveralInputsError(PunchlabError, ValueError):
    """Several things that cannot be used, found in one go: a line each."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = tuple(errors)
        Exception.__init__(self, "\n".join(map(str, self.errors)))

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[InputError, ...]]]:
        return type(self), (self.errors,)


class MissingCapabilityError(PunchlabError):
    """This machine lacks something that the lab needs; the text says what, and how to get it."""


class ClientError(PunchlabError):
    """The client under test breaks its contract (`lab.client.contract`) or cannot be started; names client and role."""


class LabError(PunchlabError):
    """The lab itself broke: never to be counted as a failed punch."""
