"""Placeholders in braces in the words of commands.

`{name}`, with only a name in the braces, is a placeholder. `{{` is a literal `{`, and the matching `}}` a literal `}`;
so is a `}}` outside braces. All other braces are literal, so that JSON needs no escapes. Text that looks like a format
of `str.format` with a known name (`{file.name}`, `{deadline_s:.1f}`) is rejected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from enum import Enum, auto

from punchlab.lab.errors import InputError

_BRACED = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?P<format>[.!:\[][^{}]*)?\}", re.ASCII)


class _Part(Enum):
    TEXT = auto()
    NAME = auto()
    FORMAT = auto()
    """A name followed by a format as in `str.format`, which is literal text."""


def placeholders(word: str) -> set[str]:
    """Return the names of the placeholders in a word."""
    return {text for part, text in _parts(word) if part is _Part.NAME}


def filled(word: str, values: Mapping[str, object]) -> str:
    """Return the word with its placeholders replaced. Raises `InputError` for one without a value."""

    def value(name: str) -> str:
        if values.get(name) is None:
            expected = f"a value for {{{name}}} in this trial, or a tuple around its words to make them optional"
            raise InputError("word", word, expected)
        return str(values[name])

    return "".join(value(text) if part is _Part.NAME else text for part, text in _parts(word))


def check(field: str, word: str, known: Collection[str]) -> None:
    """Raise `InputError` naming `field` for an unknown placeholder."""
    for part, text in _parts(word):
        if part is _Part.NAME and text not in known:
            raise InputError(field, f"{{{text}}}", f"{_nearest(text, known)}, or {{{{{text}}}}} for the literal text")
        if part is _Part.FORMAT and (found := _BRACED.match(text)) is not None and found["name"] in known:
            literal = f"{{{text}}}"
            raise InputError(field, text, f"{{{found['name']}}} alone, or {literal} for the literal text")


def _nearest(name: str, known: Collection[str]) -> str:
    """Return the known placeholder that is most similar to the name, else all of them."""
    like = difflib.get_close_matches(name, known, 1)
    return f"{{{like[0]}}}" if like else f"one of {', '.join(f'{{{each}}}' for each in known)}"


def _parts(word: str) -> Iterator[tuple[_Part, str]]:
    """Return the parts of the word: names of placeholders, and other text without escapes."""
    escapes: list[bool] = []  # for each open brace, whether it is doubled
    position = 0
    while position < len(word):
        character, start = word[position], position
        if character not in "{}":
            while position < len(word) and word[position] not in "{}":
                position += 1
            yield _Part.TEXT, word[start:position]
            continue
        double = word.startswith(character * 2, position)
        if character == "{":
            braced = None if double else _BRACED.match(word, position)
            if braced is not None:
                yield (_Part.NAME, braced["name"]) if braced["format"] is None else (_Part.FORMAT, braced[0])
                position = braced.end()
                continue
            escapes.append(double)
        else:
            opened = escapes.pop() if escapes else True
            double = double and opened
        yield _Part.TEXT, character
        position += 2 if double else 1
