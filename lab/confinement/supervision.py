"""The two processes around a program in a sandbox: they pass signals on to it, reap orphans, and end as it does.

    the user's process ──orders (a pipe)──> init ──signals──> the program and its process group
                       <──stops (a pipe)───

The program is the leader of a process group, so that what it does to its group (kill(2), setpriority(2)) reaches
nothing outside. The terminal and the shell know only the group of the user's process, which therefore speaks for the
program:

- A signal from the terminal goes to the program's group, any other signal to the program.
- When the program stops because it wants to use the terminal, and the user's process is in the foreground, the
  program's group gets the foreground, and goes on. A program that does not use the terminal does not get it, for
  others in the same pipeline may use it.
- When the program stops otherwise, so does the user's process, with the others in its job where the terminal would have
  stopped them; when it goes on, so does the program's group.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
from collections.abc import Iterator

PASSED_ON = signal.valid_signals() - {
    # Nobody can catch these two.
    *(signal.SIGKILL, signal.SIGSTOP),
    # These are about the terminal, and are passed on by other means.
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    # These are about this process alone.
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU),
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS),
}
"""Signals that a process gets which runs a program in the user's place, and that are for the program."""

_FROM_TERMINAL = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH))
_WANTS_TERMINAL = frozenset((signal.SIGTTIN, signal.SIGTTOU))
_WATCHED = PASSED_ON | {signal.SIGCHLD, signal.SIGTSTP}

_FOREGROUND, _TO_GROUP = 0, 0x80
"""Orders: a number of a signal, the same for the whole group, or this one, which gives the group the foreground."""

_SI_KERNEL = 0x80
_SIGNALFD_BYTES = 128  # struct signalfd_siginfo; it begins with ssi_signo, ssi_errno, ssi_code
_libc = ctypes.CDLL(None, use_errno=True)

_group_wide = mmap.mmap(-1, _TO_GROUP)
"""Whether a signal went to the whole group; init writes it, the program reads it."""


def exit_status(status: int) -> int:
    """What a shell makes of a wait status: the exit status, or 128 + N for a process that signal N killed."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def went_to_group(number: int) -> bool:
    """In the program: whether the signal that it has just got was passed on to its whole process group."""
    found, _group_wide[number] = bool(_group_wide[number]), False
    return found


def terminal() -> int | None:
    """A descriptor of the controlling terminal; None without one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def speak_for(keeper: int, order: int, stops: int, tty: int | None) -> int:
    """In the user's process, whose signals are blocked: be the program for its caller, until the child `keeper` ends.

    Returns its exit status.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, _WATCHED | _WANTS_TERMINAL)
    received = _signal_descriptor()
    ready = select.poll()
    for descriptor in (received, stops):
        ready.register(descriptor, select.POLLIN)
    foreground = _Foreground(tty)
    while True:
        for descriptor, _event in ready.poll():
            if descriptor == received:
                number, code = _next_signal(received)
                if number != signal.SIGCHLD:
                    _write(order, foreground.order_for(number, code))
                elif (ended := os.waitpid(keeper, os.WNOHANG))[0] == keeper:
                    foreground.take_back()
                    return exit_status(ended[1])
            elif not (stopped := os.read(stops, 1)):
                ready.unregister(stops)
            elif foreground.give(stopped[0]):
                _write(order, _FOREGROUND)
            else:
                foreground.stop(stopped[0])


class _Foreground:
    """Who has the foreground of the terminal: the process group of this process, or that of the program."""

    def __init__(self, tty: int | None) -> None:
        self._tty = tty
        self._given = False
        self._had = False
        """Whether the program's group had it when the program stopped."""

    def _own(self) -> bool:
        """Whether this process has it."""
        try:
            return self._tty is not None and os.tcgetpgrp(self._tty) == os.getpgrp()
        except OSError:  # the terminal is gone
            return False

    def order_for(self, number: int, code: int) -> int:
        """The order that passes on a signal, which came with that si_code."""
        if number == signal.SIGCONT and self._had and self._own():
            return _FOREGROUND
        from_terminal = number in _FROM_TERMINAL and code == _SI_KERNEL
        return number | _TO_GROUP if from_terminal or number in (signal.SIGTSTP, signal.SIGCONT) else number

    def give(self, number: int) -> bool:
        """Whether the program's group is to get it, as the program was stopped by that signal."""
        given = number in _WANTS_TERMINAL and self._own()
        self._given = self._given or given
        return given

    def stop(self, number: int) -> None:
        """Stop this process because that signal has stopped the program.

        If it is of the terminal, and went to the program's group alone, the others in this job stop, too.
        """
        self._had = self._given and not self._own()
        if self._tty is not None and (number in _WANTS_TERMINAL or (number == signal.SIGTSTP and self._had)):
            os.killpg(os.getpgrp(), number)
        os.kill(os.getpid(), signal.SIGSTOP)

    def take_back(self) -> None:
        """Have it again, unless somebody else has it by now."""
        if self._tty is None or not self._given:
            return
        with contextlib.suppress(OSError):  # the terminal is gone
            group = os.tcgetpgrp(self._tty)
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                os.tcsetpgrp(self._tty, os.getpgrp())


def serve(program: int, orders: int, stops: int, tty: int | None) -> int:
    """In init: carry out orders, report stops, reap what ends, and return the program's exit status."""
    received, wakes = os.pipe()
    for descriptor in (received, wakes, orders, stops):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _received, _frame: None)
    # No other is for this process; with SIGTTOU blocked it may set the foreground from the background.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
    ready = select.poll()
    for descriptor in (received, orders):
        ready.register(descriptor, select.POLLIN)
    while True:
        for pid, status in _changed():
            if pid == program:
                if not os.WIFSTOPPED(status):
                    return exit_status(status)
                _write(stops, os.WSTOPSIG(status))
        for descriptor, _event in ready.poll():
            contents = _contents(descriptor)
            if descriptor != orders:
                continue
            if contents == b"":
                ready.unregister(orders)  # the user's process has ended, and SIGKILL comes to this one
            for each in contents or b"":
                with contextlib.suppress(OSError):  # it has just ended, or the terminal is gone
                    _carry_out(each, program, tty)


def _carry_out(order: int, program: int, tty: int | None) -> None:
    group, number = os.getpgid(program), order & ~_TO_GROUP
    if order == _FOREGROUND:
        if tty is not None:
            os.tcsetpgrp(tty, group)
        os.killpg(group, signal.SIGCONT)
        return
    to_group = order != number
    _group_wide[number] = to_group
    if to_group:
        os.killpg(group, number)
    else:
        os.kill(program, number)


def _write(pipe: int, byte: int) -> None:
    with contextlib.suppress(OSError):  # the other process has just ended, or does not read
        os.write(pipe, bytes([byte]))


def _contents(pipe: int) -> bytes | None:
    """What is in the pipe; empty when its other end is closed, None when there is nothing yet."""
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return None


def _changed() -> Iterator[tuple[int, int]]:
    """The process ids and wait statuses of children that have ended or stopped."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
            yield found


def _signal_descriptor() -> int:
    """signalfd(2) for the signals in `_WATCHED`. Raises OSError."""
    mask = sum(1 << (number - 1) for number in _WATCHED).to_bytes(_SIGNALFD_BYTES, "little")
    descriptor = _libc.signalfd(-1, mask, os.O_CLOEXEC)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"signalfd: {os.strerror(error)}")
    return int(descriptor)


def _next_signal(descriptor: int) -> tuple[int, int]:
    """The number and the si_code (sigaction(2)) of a signal that has come."""
    information = os.read(descriptor, _SIGNALFD_BYTES)
    return int.from_bytes(information[0:4], "little"), int.from_bytes(information[8:12], "little", signed=True)
