"""What to suggest for a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST_WORD = 100
"""The comparison takes time with the square of the length."""
_MANY = 20
"""Words that are too many to name them all where one of them is clearly meant."""
_CLEARLY = 0.8


def one_of(value: object, known: Sequence[str]) -> str:
    """What is expected instead of a value that is none of the known words."""
    if not isinstance(value, str):
        return f"one of {', '.join(known)}"
    if len(known) > _MANY and (meant := suggestion(value, known, _CLEARLY)):
        return f"one of {len(known)} names{meant}"
    return f"one of {', '.join(known)}{suggestion(value, known)}"


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What to add to the error: the known word that is most like it, if one is as like as `cutoff` (0 to 1)."""
    import difflib  # rarely needed, and by processes that start often

    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""
