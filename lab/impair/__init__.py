"""Delay, jitter, loss and bandwidth per direction of a link, by netem or NFQUEUE.

`apply` impairs links with the implementation that `choose` selects, and returns a handle.
"""

from __future__ import annotations

from punchlab.lab.impair.choice import CHOICES, Links, apply, choose
from punchlab.lab.impair.impairment import OPTIONS, Impairment
from punchlab.lab.impair.link import Applied, Counters, DirectedLink, Implementation, LinkEnd

__all__ = [
    "CHOICES",
    "OPTIONS",
    "Applied",
    "Counters",
    "DirectedLink",
    "Impairment",
    "Implementation",
    "LinkEnd",
    "Links",
    "apply",
    "choose",
]
