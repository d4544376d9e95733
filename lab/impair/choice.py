"""Select the implementation that impairs links: netem if the kernel supports it, else NFQUEUE."""

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
    """Return the implementation of that name. The first call per process tests whether it works.

    Raises `InputError` for a name not in `CHOICES`, `MissingCapabilityError` if the implementation does not work here.
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
    """Impair the links, in force on return. If no link has an impairment, no implementation is needed or tested.

    `seed`: the same seed gives the same loss and jitter for each link (netem: from Linux 6.6). Raises the errors of
    `choose`, and `LabError` if the kernel rejects a request.
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
