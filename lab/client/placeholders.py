"""Words of commands with placeholders in braces.

`{name}`, with nothing but a name in the braces, is a placeholder. `{{` is a literal `{`, and the `}}` that closes it a
literal `}`; a `}}` outside of all braces is one too. All other braces stand for themselves, so that JSON can be written
as it is. What looks like a format of `str.format` with a known name (`{file.name}`, `{deadline_s:.1f}`) is refused.
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
    """A name and something that `str.format` would take for a format: literal text."""


def placeholders(word: str) -> set[str]:
    """The names of the placeholders in a word."""
    return {text for part, text in _parts(word) if part is _Part.NAME}


def filled(word: str, values: Mapping[str, object]) -> str:
    """The word with its placeholders replaced. Raises `InputError` for one without a value."""

    def value(name: str) -> str:
        if values.get(name) is None:
            expected = f"a value for {{{name}}} in this trial, or a tuple around its words, to be left out without one"
            raise InputError("word", word, expected)
        return str(values[name])

    return "".join(value(text) if part is _Part.NAME else text for part, text in _parts(word))


def check(field: str, word: str, known: Collection[str]) -> None:
    """Raise `InputError` that names `field` for a placeholder that is not among the known ones."""
    for part, text in _parts(word):
        if part is _Part.NAME and text not in known:
            raise InputError(field, f"{{{text}}}", f"{_nearest(text, known)}, or {{{{{text}}}}} for the literal text")
        if part is _Part.FORMAT and (found := _BRACED.match(text)) is not None and found["name"] in known:
            literal = f"{{{text}}}"
            raise InputError(field, text, f"{{{found['name']}}} alone, or {literal} for the literal text")


def _nearest(name: str, known: Collection[str]) -> str:
    """The known placeholder that is most like the name, else all of them."""
    like = difflib.get_close_matches(name, known, 1)
    return f"{{{like[0]}}}" if like else f"one of {', '.join(f'{{{each}}}' for each in known)}"


def _parts(word: str) -> Iterator[tuple[_Part, str]]:
    """The parts of the word: the name of each placeholder, and all other text with its escapes resolved."""
    escapes: list[bool] = []  # of each brace that is open: whether it was written twice
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
