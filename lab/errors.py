"""Exceptions of the lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from punchlab.punch.text import LONGEST_VALUE, printable, shown


class PunchlabError(Exception):
    """Base of all exceptions that this project raises on purpose. The message is one printable line."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class InputError(PunchlabError, ValueError):
    """The user gave an invalid value or no value (None). `field` names the input, `expected` describes valid values."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        problem = "missing" if value is None else f"{shown(value)} cannot be used"
        super().__init__(f"{printable(field, LONGEST_VALUE)}: {problem}; expected {expected}")

    def __reduce__(self) -> tuple[type[Self], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.expected)


class SeveralInputsError(PunchlabError, ValueError):
    """Several invalid inputs. The message has one line for each."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = tuple(errors)
        Exception.__init__(self, "\n".join(map(str, self.errors)))

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[InputError, ...]]]:
        return type(self), (self.errors,)


class MissingCapabilityError(PunchlabError):
    """This machine lacks something that the lab needs. The message names it and how to get it."""


class ClientError(PunchlabError):
    """The client under test violates its contract (`lab.client.contract`) or cannot start. The message names client and
    role.
    """


class LabError(PunchlabError):
    """The lab itself failed. This never counts as a failed punch."""
