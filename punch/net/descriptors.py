"""Limits of file descriptors."""

from __future__ import annotations

import resource

_OTHERS = 64  # files, the listener, accepted connections, the event loop


def available(wanted: int) -> int:
    """Return how many of the `wanted` sockets can be opened, at least 1; raises the soft limit as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - _OTHERS)
