"""What can go wrong in the lab, as exceptions that a caller can tell apart."""

from __future__ import annotations


class PunchlabError(Exception):
    """Base of every error that this project raises on purpose; its text is one clear line."""


class InputError(PunchlabError, ValueError):
    """Something the user typed cannot be used. Names the field, the value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field}: {value!r} cannot be used; expected {expected}")


class MissingCapabilityError(PunchlabError):
    """This machine lacks something that the lab needs; the text says what, and how to get it."""


class LabError(PunchlabError):
    """The lab itself broke: never to be counted as a failed punch."""
