"""Load the rules of NATs: with iptables-restore, and with libnftables in this process.

A process for `nft -f` would take several times as long as the loading itself. iptables has no such library.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.kernel import sysctl
from punchlab.lab.kernel.namespace import SELECT_DESCRIPTORS, Namespace
from punchlab.lab.nat.rules import NatRules

_INSTALL = "not installed; run `apt-get install iptables nftables`"
_AT_ONCE = 16
"""The maximum number of loading processes in parallel."""

_one_at_a_time = threading.Lock()
"""libnftables is not thread-safe."""


@dataclass(frozen=True, slots=True)
class Request:
    """The rules for one namespace. `name` is the node in error messages."""

    name: str
    namespace: Namespace
    rules: NatRules


class Loader:
    """Load the rules of NATs. Loading starts at the beginning of the block; `finish` waits until all rules are in
    force.

    Interfaces may be created later, because rules refer to them by name. The context manager ends all processes.
    """

    def __init__(self, wanted: Iterable[Request]) -> None:
        self._all = tuple(wanted)
        self._waiting = deque(
            (each, command, text)
            for each in self._all
            for command, text in (
                ("iptables-restore", each.rules.iptables),
                ("ip6tables-restore", each.rules.ip6tables),
            )
            if text
        )
        self._running: deque[tuple[Request, str, subprocess.Popen[str]]] = deque()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _wanted, _command, process in self._running:
            process.kill()
            process.communicate()

    def finish(self) -> None:
        """Wait until all rules are in force. Raises `LabError` with the error output if a program rejects the rules."""
        for wanted in self._all:
            if wanted.rules.nft:
                with wanted.namespace.entered(), _one_at_a_time:
                    rejected = _load(wanted.rules.nft)
                if rejected is not None:
                    raise LabError(f"{wanted.name}: nft: {rejected}")
        while self._running:
            wanted, command, process = self._running.popleft()
            _output, errors = process.communicate()
            if process.returncode != 0:
                raise LabError(f"{wanted.name}: {command}: {errors.strip()}")
            self._start()
        for wanted in self._all:
            with wanted.namespace.entered():
                sysctl.write(wanted.rules.sysctls)

    def _start(self) -> None:
        while self._waiting and len(self._running) < _AT_ONCE:
            wanted, command, rules = self._waiting.popleft()
            with open(os.memfd_create("rules"), "w+") as text:  # noqa: PTH123 - no path
                text.write(rules)
                text.seek(0)
                try:
                    with wanted.namespace.entered():
                        process = subprocess.Popen(
                            [command],
                            stdin=text,
                            stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE,
                            text=True,
                        )
                except OSError:
                    raise MissingCapabilityError(f"{command}: {_INSTALL}") from None
            self._running.append((wanted, command, process))


def _load(text: str) -> str | None:
    """Load nft rules into this thread's namespace. Return the errors of libnftables, or None."""
    library = _library()
    with open(os.devnull) as file:  # noqa: PTH123
        if file.fileno() >= SELECT_DESCRIPTORS:  # the library would end this process
            raise LabError(
                f"nft: this process has {SELECT_DESCRIPTORS} open files, the maximum that libnftables supports"
            )
    context = library.nft_ctx_new(0)
    try:
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, text.encode()) == 0:
            return None
        errors: bytes = library.nft_ctx_get_error_buffer(context)
        return errors.decode(errors="replace").strip()
    finally:
        library.nft_ctx_free(context)


@functools.cache
def _library() -> ctypes.CDLL:
    """Return libnftables(3). Raises `MissingCapabilityError`."""
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise MissingCapabilityError(f"libnftables: {_INSTALL}") from None
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    for function in (library.nft_ctx_buffer_error, library.nft_ctx_free):
        function.argtypes = [ctypes.c_void_p]
    return library
