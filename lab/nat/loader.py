"""Putting the rules of NATs into force: iptables-restore for iptables' part, libnftables in this process for nft's.

A process for `nft -f` would take several times as long as what it does; iptables has no library to do the same.
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
"""Processes that load side by side."""

_one_at_a_time = threading.Lock()
"""libnftables is not thread-safe."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rules for one namespace; `name` is what to call it in errors."""

    name: str
    namespace: Namespace
    rules: NatRules


class Loader:
    """Loads the rules of NATs: starts when made, and `finish` returns when all are in force.

    Interfaces need not be there yet, for rules know them by name. As a context manager it leaves no process behind.
    """

    def __init__(self, wanted: Iterable[Wanted]) -> None:
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
        self._running: deque[tuple[Wanted, str, subprocess.Popen[str]]] = deque()

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
        """Raises `LabError` with the loader's own words if it refuses the rules."""
        for wanted in self._all:
            if wanted.rules.nft:
                with wanted.namespace.entered(), _one_at_a_time:
                    refused = _load(wanted.rules.nft)
                if refused is not None:
                    raise LabError(f"{wanted.name}: nft: {refused}")
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
    """Load nft rules into this thread's namespace; what libnftables has against them, if anything."""
    library = _library()
    with open(os.devnull) as file:  # noqa: PTH123
        if file.fileno() >= SELECT_DESCRIPTORS:  # the library would end this process
            raise LabError(
                f"nft: this process has {SELECT_DESCRIPTORS} open files, and libnftables can do with no more"
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
    """libnftables(3). Raises `MissingCapabilityError`."""
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
