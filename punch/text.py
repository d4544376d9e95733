r"""Makes text from outside safe to show on a terminal, in a log or in a report.

Sources outside are peers, edges, clients under test, files, arguments, and error texts of libraries that quote any of
these. Unsafe characters are escaped as in a Python string (`\x1b`, `\u202e`), so that they stay readable and nothing is
lost:

- control characters (C0, DEL, C1), which control a terminal, and line ends, which split a line in two;
- surrogates, which cannot be encoded, unassigned and private characters, and noncharacters;
- invisible characters: format characters (category Cf, including all bidirectional controls, zero-width characters and
  tags), line and paragraph separators, and the default-ignorable characters of other categories (UAX #44);
- combining marks beyond the first `MOST_MARKS` in a row, because a stack of them covers the lines above and below;
- `##[`, `##vso[` and `##teamcity[`, which GitHub Actions, Azure Pipelines and TeamCity interpret as a command anywhere
  in a log line. (`::command::` is one only at the start of a line: see `punch.stdio`.)

This module imports nothing from the project, because `lab` and `reports` use it as well.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator

LONGEST = 2000
"""Maximum length of a printed text, in characters."""
LONGEST_VALUE = 300
"""Maximum length of a value in an error message, in characters."""

MOST_MARKS = 5
"""Combining marks in a row that are shown, and that a name may have. Hebrew with vowels and accents has up to five."""

_COMMAND = re.compile(r"##(?=\w*\[)")

_VARIATION_SELECTORS = (0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_IGNORABLE = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *_VARIATION_SELECTORS))
"""Default_Ignorable_Code_Point outside categories Cf and Cn (DerivedCoreProperties.txt of Unicode 15)."""
_JOINERS = frozenset((0x200C, 0x200D, *_VARIATION_SELECTORS))
"""ZWNJ, ZWJ and the variation selectors: needed by Persian, Mongolian and Japanese names, and by emoji."""
_VISIBLE_FORMATS = frozenset((*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD))
"""Format characters with a glyph (Prepended_Concatenation_Mark)."""
_MARKS = frozenset(("Mn", "Me"))
"""Categories of marks without an advance width."""
_UNSUITABLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str, longest: int | None = LONGEST) -> str:
    """Return the text on one line with unsafe characters escaped; a text longer than `longest` characters ends with
    `…`.

    The function is idempotent.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest + 1]
    if not (text.isascii() and text.isprintable()):
        text = _with_few_marks(text.translate(_ESCAPES), _ESCAPES)
    text = disarmed(text)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


def printable_lines(text: str) -> str:
    """Return the text with each line made safe by `printable`, without a limit of its length."""
    return "\n".join(printable(line, None) for line in text.split("\n"))


def disarmed(text: str) -> str:
    """Return the text without prefixes of CI commands; the meaning of a JSON document does not change."""
    return _COMMAND.sub(r"#\\u0023", text) if "##" in text else text


def shown(value: object, longest: int = LONGEST_VALUE) -> str:
    """Return the `repr` of any value, made safe by `printable`."""
    try:
        text = repr(value)
    except ValueError:  # Python does not convert integers of more than 4,300 digits
        return "an integer with thousands of digits"
    except RecursionError:
        return "a deeply nested value"
    return printable(text, longest)


def printable_parts(value: object) -> object:
    """Return a JSON value with all texts in it, including keys, made safe by `printable`."""
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
    """Return an equivalent one-line JSON document in which unsafe characters are JSON escapes."""
    if not (document.isascii() and document.isprintable()):
        document = _with_few_marks(document.translate(_JSON_ESCAPES), _JSON_ESCAPES)
    return disarmed(document)


def unsuitable_in_names(name: str) -> str | None:
    """Return the first character that is not allowed in a file name from outside, or None.

    This is stricter than `printable`, because a name is rejected and not rewritten. It is more permissive for joiners,
    variation selectors, and characters that this version of Unicode does not define.
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
    # Spaces other than U+0020 are unprintable for Python, but harmless.
    return (char.isprintable() or unicodedata.category(char) == "Zs") and code not in _IGNORABLE


class _Escapes:
    """A table for `str.translate` without a cache, so that text from outside cannot fill the memory."""

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
