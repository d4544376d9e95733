"""Text from outside, made safe to show: the one place that says what of it a terminal, a log or a report may get.

Outside are peers, edges, clients under test, files, arguments and the errors of libraries that quote any of these. What
is not safe is escaped as in a Python string (`\\x1b`, `\\u202e`), so that it can be read, and nothing is lost:

- control characters (C0, DEL, C1), which command a terminal, and line ends, which make one line look like two;
- surrogates, which no file takes, unassigned and private characters, and noncharacters;
- characters that nobody sees: format characters (category Cf, with all bidirectional controls, zero-width characters
  and tags), line and paragraph separators, and the default-ignorable characters of other categories (UAX #44);
- combining marks beyond the first `MOST_MARKS` of a character: a stack of them covers the lines above and below;
- `##[`, `##vso[` and `##teamcity[`, with which GitHub Actions, Azure Pipelines and TeamCity take a line of a log for a
  command wherever they stand in it. (`::command::` is one at the start of a line only: see `punch.stdio`.)

This module imports nothing of the project: `lab` and `reports` use it as `punch` does.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator

LONGEST = 2000
"""Characters of a text that is shown, at most."""
LONGEST_VALUE = 300
"""Characters of a value that an error shows, at most."""

MOST_MARKS = 5
"""Combining marks in a row that are shown, and that a name may have. Hebrew with vowels and accents has up to five."""

_COMMAND = re.compile(r"##(?=\w*\[)")

_VARIATION_SELECTORS = (0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_IGNORABLE = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *_VARIATION_SELECTORS))
"""Default_Ignorable_Code_Point of other categories than Cf and Cn (DerivedCoreProperties.txt of Unicode 15)."""
_JOINERS = frozenset((0x200C, 0x200D, *_VARIATION_SELECTORS))
"""ZWNJ, ZWJ and the variation selectors: Persian, Mongolian, Japanese names and emoji need them."""
_VISIBLE_FORMATS = frozenset((*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD))
"""Format characters that have a glyph (Prepended_Concatenation_Mark)."""
_MARKS = frozenset(("Mn", "Me"))
"""Marks that take no room of their own."""
_UNSUITABLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str, longest: int | None = LONGEST) -> str:
    """The text on one line, with what is not safe escaped; what is longer than `longest` characters ends with `…`.

    What this function returns it returns again when it is given that.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest + 1]
    if not (text.isascii() and text.isprintable()):
        text = _with_few_marks(text.translate(_ESCAPES), _ESCAPES)
    text = disarmed(text)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


def printable_lines(text: str) -> str:
    """The text with every line of it as `printable` makes it, of any length; for what may have several lines."""
    return "\n".join(printable(line, None) for line in text.split("\n"))


def disarmed(text: str) -> str:
    """The text without what begins a command in the log of a CI run; a JSON document means the same."""
    return _COMMAND.sub(r"#\\u0023", text) if "##" in text else text


def shown(value: object, longest: int = LONGEST_VALUE) -> str:
    """Any value as Python writes it, as `printable` makes it."""
    try:
        text = repr(value)
    except ValueError:  # Python converts no whole number of more than 4,300 digits
        return "a whole number of thousands of digits"
    except RecursionError:
        return "a deeply nested value"
    return printable(text, longest)


def printable_parts(value: object) -> object:
    """A value of JSON with every text in it, keys included, as `printable` makes it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {
            printable(name) if isinstance(name, str) else name: printable_parts(each) for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [printable_parts(each) for each in value]
    return value


def safe_json(document: str) -> str:
    """A JSON document of one line that means the same, with what is not safe in it written as JSON escapes."""
    if not (document.isascii() and document.isprintable()):
        document = _with_few_marks(document.translate(_JSON_ESCAPES), _JSON_ESCAPES)
    return disarmed(document)


def unsuitable_in_names(name: str) -> str | None:
    """The first character that no name of a file from outside may have; None for a name without any.

    It is stricter than what is shown: a name is refused, not rewritten. It is laxer in that a name may have joiners,
    variation selectors, and characters that this version of Unicode does not know.
    """
    return next((each for each in name if _is_unsuitable(each)), None)


def has_stacked_marks(name: str) -> bool:
    """Whether a name has more than `MOST_MARKS` combining marks in a row; joiners between them do not count."""
    return next(_marks_beyond(name), None) is not None


def _marks_beyond(text: str) -> Iterator[int]:
    """Where the combining marks are that follow `MOST_MARKS` others."""
    row = 0
    for place, char in enumerate(text):
        if char.isascii():
            row = 0
        elif ord(char) not in _JOINERS:
            row = row + 1 if unicodedata.category(char) in _MARKS else 0
            if row > MOST_MARKS:
                yield place


def _with_few_marks(text: str, escapes: _Escapes) -> str:
    """The text with the marks beyond the first ones of a row escaped."""
    if text.isascii() or not (beyond := set(_marks_beyond(text))):
        return text
    return "".join(escapes.escaped(char) if place in beyond else char for place, char in enumerate(text))


def _is_unsuitable(char: str) -> bool:
    code = ord(char)
    if code in _JOINERS or code in _VISIBLE_FORMATS:
        return False
    return (
        unicodedata.category(char) in _UNSUITABLE
        or code in _IGNORABLE
        or code & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code <= 0xFDEF  # noncharacters
    )


def _is_safe(code: int) -> bool:
    char = chr(code)
    # Of the characters that Python calls unprintable, blanks other than the space do no harm.
    return (char.isprintable() or unicodedata.category(char) == "Zs") and code not in _IGNORABLE


class _Escapes:
    """A table for `str.translate`. It keeps nothing: what comes from outside must not fill the memory."""

    def __getitem__(self, code: int) -> int | str:
        return code if _is_safe(code) else self.escaped(chr(code))

    @staticmethod
    def escaped(char: str) -> str:
        """As in a Python string."""
        return ascii(char)[1:-1]


class _JsonEscapes(_Escapes):
    @staticmethod
    def escaped(char: str) -> str:
        """As in a JSON string."""
        return json.dumps(char)[1:-1]


_ESCAPES, _JSON_ESCAPES = _Escapes(), _JsonEscapes()
