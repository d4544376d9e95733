"""Ports for servers of tests: below the ephemeral ports, and different in each process of a parallel run."""

from __future__ import annotations

import itertools
import os

_PER_PROCESS = 50
_next = itertools.count()


def fresh_ports() -> tuple[int, int]:
    """Return two neighboring ports that no other test uses."""
    first = 16000 + (os.getpid() % 320) * _PER_PROCESS + 2 * next(_next) % _PER_PROCESS
    return first, first + 1
