"""Which implementation impairs the links: netem where the kernel has it, else NFQUEUE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

from punchlab.lab.errors import InputError, MissingCapabilityError
from punchlab.lab.impair.link import Applied, DirectedLink, Implementation, NotNeeded

Links = Literal["auto", "netem", "nfqueue"]
"""What impairs the links."""

CHOICES: tuple[Links, ...] = get_args(Links)


def choose(name: str = "auto") -> Implementation:
    """The implementation of that name, tried on this machine once per process.

    Raises `InputError` for a name not in `CHOICES`, `MissingCapabilityError` where the machine lacks what it needs.
    """
    candidates = _named(name)
    reasons = []
    for candidate in candidates:
        reason = _why_not(candidate)
        if reason is None:
            return _implementation(candidate)
        reasons.append(reason)
    raise MissingCapabilityError("links: " + "; ".join(reasons))


def apply(links: Sequence[DirectedLink], implementation: str = "auto", seed: int = 0) -> Applied:
    """Impair the links that want it; in force on return. Without one, nothing is tried and nothing is needed.

    `seed`: the same seed gives the same loss and jitter draws, link by link (netem: from Linux 6.6). Raises what
    `choose` raises, and `LabError` when the kernel refuses.
    """
    _named(implementation)
    if not any(link.impairment for link in links):
        return NotNeeded(len(links))
    return choose(implementation).apply(links, seed)


def _named(name: str) -> Sequence[str]:
    if name not in CHOICES:
        raise InputError("links", name, "one of " + ", ".join(CHOICES))
    return CHOICES[1:] if name == "auto" else (name,)


@cache
def _why_not(name: str) -> str | None:
    return _implementation(name).why_not()


@cache
def _implementation(name: str) -> Implementation:
    if name == "netem":
        from punchlab.lab.impair.netem import Netem

        return Netem()
    from punchlab.lab.impair.nfqueue import Nfqueue

    return Nfqueue()
