"""Delay, jitter, loss and bandwidth, per direction of a link, by netem or by NFQUEUE.

`apply` is the whole of it: it impairs the links that want it, in the way that `choose` finds here, and gives a handle.
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
