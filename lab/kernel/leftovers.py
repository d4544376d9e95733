"""Processes by where they are: all of a network namespace, and all that a process has started.

Whatever a command starts stays in the network namespace of its node, also as a daemon with a session of its own, so
that is where to look for what it left behind. (An ordinary user has no control groups to do that with.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from punchlab.lab.errors import LabError

_PATIENCE_S = 10.0
"""How long killed processes may take to end."""


@dataclass(frozen=True, slots=True)
class Status:
    """The parent and the session of a process, and when it started, in the kernel's ticks."""

    parent: int
    session: int
    started: int


def inside(namespaces: Collection[int]) -> Mapping[int, int]:
    """Process id -> inode of its network namespace, of all processes in the namespaces with these inodes.

    Without those that have ended (zombies), and without this process. 10 microseconds per process of the sandbox.
    """
    found = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and (inode := _namespace(entry.name)) in namespaces:
                found[int(entry.name)] = inode
    found.pop(os.getpid(), None)
    return found


def started_by(pids: Iterable[int]) -> Mapping[int, Status]:
    """What processes that run have started, and what that has, as long as it runs."""
    found: dict[int, Status] = {}
    missing = list(pids)
    while missing:
        tasks = Path(f"/proc/{missing.pop()}/task")
        with contextlib.suppress(OSError):  # it has ended
            children = {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}
            for child in children - found.keys():
                if (known := status(child)) is not None:
                    found[child] = known
                    missing.append(child)
    return found


def is_still(pid: int, known: Status) -> bool:
    """Whether the process is the one with that status, and not a later one with the same id."""
    now = status(pid)
    return now is not None and now.started == known.started


def status(pid: int) -> Status | None:
    """Of a process; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # from the third of proc_pid_stat(5): state, ppid, pgrp, session
    return Status(int(fields[1]), int(fields[3]), int(fields[19]))


def descends(pid: int, from_one_of: Collection[int]) -> bool:
    """Whether a process is one of those, or was started by one that runs."""
    known: Status | None
    while pid not in from_one_of:
        known = status(pid)
        if known is None or known.parent <= 1:
            return False
        pid = known.parent
    return True


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(pids: Iterable[int]) -> None:
    """Kill processes and wait until they have ended. Raises `LabError` if they do not."""
    deadline = time.monotonic() + _PATIENCE_S
    with contextlib.ExitStack() as stack:
        ends = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                ends[pid] = os.pidfd_open(pid)
                stack.callback(os.close, ends[pid])
                signal.pidfd_send_signal(ends[pid], signal.SIGKILL)
        for pid, descriptor in ends.items():
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise LabError(f"process {pid} does not end")


def _namespace(pid: str) -> int:
    """The inode of a process's network namespace; 0 if it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116 - a Path takes as long again
    except OSError:
        return 0
