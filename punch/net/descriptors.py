"""File descriptors: how many sockets there can be."""

from __future__ import annotations

import resource

_OTHERS = 64  # files, the listener, what is accepted, the event loop's own


def available(wanted: int) -> int:
    """How many of the wanted sockets can be opened, at least 1; the soft limit is raised as far as it must and may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - _OTHERS)
