"""Whose timing counts goes first: on a busy machine clients start within a millisecond of their instant, not five."""

from __future__ import annotations

import contextlib
import os

CLIENT, LINKS = -15, -20
"""Niceness (sched(7)); what holds the packets goes before those who send them."""


def favor(pid: int, niceness: int) -> None:
    """Let a process that was just started go before others, where we may (not in a sandbox of an ordinary user)."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
