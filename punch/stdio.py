"""The standard streams of a command: always open, without encoding errors, and without control of a terminal or a CI
run.

All output of a command is written through this module: sentences, errors, usage, warnings, logs of libraries and
tracebacks. So the rest of the code needs no escaping. Only code that draws on a terminal (`rich`) writes to the
underlying streams, through `unguarded`.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any, TextIO, cast

from punchlab.punch.text import disarmed, printable

_UNSAFE = re.compile(r"[^\n\t -~]+")
_STARTS_COMMAND = re.compile(r"^([^\S\n]*)::", re.MULTILINE)


class _Guard(io.TextIOBase):
    r"""A text stream that escapes text before it writes it to another stream, and forwards all other methods.

    Newlines and tabs are kept; every other character that `punch.text` calls unsafe is escaped. A line that begins with
    `::` would be a command of GitHub Actions, and is written with `\x3a:`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._blank = True
        """Whether the current line has only blanks so far."""

    def write(self, text: str) -> int:
        """Write the text, and return its number of characters before escaping."""
        self.stream.write(self._safe(text))
        return len(text)

    def _safe(self, text: str) -> str:
        safe = disarmed(_UNSAFE.sub(_escaped, text))
        if "::" in safe:
            safe = _STARTS_COMMAND.sub(self._unless_within, safe)
        *before, last = safe.rpartition("\n")
        self._blank = (any(before) or self._blank) and not last.strip()
        return safe

    def _unless_within(self, found: re.Match[str]) -> str:
        if found.start() == 0 and not self._blank:
            return found[0]
        return rf"{found[1]}\x3a:"

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: the underlying stream is closed by its owner."""

    @property
    def closed(self) -> bool:
        """Whether the underlying stream is closed."""
        return self.stream.closed

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the underlying stream."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The error handler of the underlying stream's encoding."""
        return self.stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _escaped(found: re.Match[str]) -> str:
    return printable(found[0], None)


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream below a guard, or the stream itself, for a library that controls the terminal."""
    return unguarded(stream.stream) if isinstance(stream, _Guard) else stream


def settle() -> None:
    """Install the guarded standard streams in this process.

    A closed standard stream is replaced by /dev/null, here and in children; otherwise the next socket or namespace
    would get its descriptor.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (open until the process ends)
            os.set_inheritable(number, True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast("TextIO", _Guard(unguarded(stream))) for stream in (sys.stdout, sys.stderr))
