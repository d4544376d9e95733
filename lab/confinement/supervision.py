"""The two processes around a program in a sandbox: they pass signals on to it, reap orphans, and end as it does.

the user's process ──numbers of signals, by a pipe──> init ──signals──> the program
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

PASSED_ON = signal.valid_signals() - {
    # Nobody can catch these two.
    *(signal.SIGKILL, signal.SIGSTOP),
    # The terminal stops the whole process group, and the program stops with it.
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    # These are about this process alone.
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU),
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS),
}
"""Signals that a process gets which runs a program in the user's place, and that are for the program."""


def exit_status(status: int) -> int:
    """What a shell makes of a wait status: the exit status, or 128 + N for a process that signal N killed."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def serve(program: int, orders: int, early: set[signal.Signals]) -> int:
    """Pass signals on to the program, reap what ends, and return the program's exit status.

    `early` are signals from before there was a program.
    """
    received, wakes = os.pipe()
    for descriptor in (received, wakes, orders):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for passed_on in (*PASSED_ON, signal.SIGCHLD):
        signal.signal(passed_on, lambda _received, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ready = select.poll()
    ready.register(received, select.POLLIN)
    ready.register(orders, select.POLLIN)
    direct = {*(_contents(received) or b"")} - early
    while True:
        while (ended := _reaped()) is not None:
            if ended[0] == program:
                return exit_status(ended[1])
        ordered = _contents(orders) if any(descriptor == orders for descriptor, _event in ready.poll()) else None
        # Afterwards: a signal that came with an order is known by now, even if not to that poll.
        direct.update(_contents(received) or b"")
        if ordered == b"":
            ready.unregister(orders)  # the user's process has ended, and SIGKILL comes to this one
        for number in ordered or b"":
            # What was sent to the whole process group has reached the program by itself.
            shared = number in direct and _group(program) == os.getpgrp()
            direct.discard(number)
            if not shared:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(program, number)


def _contents(pipe: int) -> bytes | None:
    """What is in the pipe; empty when its other end is closed, None when there is nothing yet."""
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return None


def _reaped() -> tuple[int, int] | None:
    """The process id and wait status of a child that has ended."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def pass_on(order: int) -> None:
    """Have this process write the numbers of the signals that it gets there."""

    def write(number: int, _frame: object) -> None:
        # A signal for the whole process group is sent under the kernel's lock of all processes. To change a group
        # takes that lock too: after this call, which changes nothing, init has the signal as well.
        with contextlib.suppress(OSError):
            os.setpgid(0, os.getpgrp())
        with contextlib.suppress(OSError):  # the sandbox has just ended
            os.write(order, bytes([number]))

    for number in PASSED_ON:
        signal.signal(number, write)
