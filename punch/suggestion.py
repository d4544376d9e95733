"""Suggestions for unknown words."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_WORD = 100
"""Characters that are compared: the time grows with the square of the length."""
_MANY = 20
"""Above so many choices, an error that has a good suggestion does not list them."""
_CLEARLY = 0.8


def one_of(value: object, choices: Iterable[str]) -> str:
    """Return what an error expects instead of a value that is not one of the choices."""
    known = list(choices)
    if not isinstance(value, str):
        return f"one of {', '.join(known)}"
    if len(known) > _MANY and (meant := suggestion(value, known, _CLEARLY)):
        return f"one of {len(known)} names{meant}"
    return f"one of {', '.join(known)}{suggestion(value, known)}"


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the end of an error: the most similar known word, if its similarity is at least `cutoff` (0 to 1)."""
    import difflib  # rarely needed, and by processes that start often

    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""
