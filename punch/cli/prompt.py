"""A question at the controlling terminal of this process, independent of standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable, Mapping
from typing import Any, Self

from punchlab.punch.sentences import offer_text
from punchlab.punch.text import printable, printable_lines

_YES, _NO = ("y", "yes"), ("", "n", "no")
_LONGEST = 4096  # bytes of an answer; the kernel's limit for a line of a terminal


class Terminal:
    """The controlling terminal of a process in its foreground. A context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls) -> Self | None:
        """Return None without a terminal, or in its background, where reading would stop the process."""
        try:
            fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.tcgetpgrp(fd) == os.getpgrp():
                return cls(fd)
        except OSError:
            pass
        os.close(fd)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    async def accepts(self, summary: Mapping[str, Any], directory: str) -> bool:
        """Show the offer and ask whether to store it. Return False without an answer, or when the terminal closes."""
        await self._write(f"{offer_text(summary)}\n")
        question = f"Store this in {printable(directory)}? [y/N] "
        with contextlib.suppress(termios.error):  # discard input typed before the question
            termios.tcflush(self._fd, termios.TCIFLUSH)
        answered = False
        try:
            while True:
                await self._write(question)
                answer = await self._line()
                answered = answer is not None and answer.endswith("\n")
                word = (answer or "").strip().lower()
                if word in _YES or word in _NO:
                    return word in _YES
        finally:
            if not answered:  # the cursor is still at the end of the question
                with contextlib.suppress(OSError):
                    os.write(self._fd, b"\n")

    async def _line(self) -> str | None:
        """Return the next line with its line end; a part of it, or None, when the terminal closes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready(loop.add_reader, loop.remove_reader)
            try:
                return os.read(self._fd, _LONGEST).decode(errors="replace") or None
            except BlockingIOError:
                continue
            except OSError:
                return None

    async def _write(self, text: str) -> None:
        loop = asyncio.get_running_loop()
        data = memoryview(printable_lines(text).encode())
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # output is stopped, or slow
                await self._ready(loop.add_writer, loop.remove_writer)
            except OSError:
                return  # the terminal has closed; the next read reports it

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = asyncio.Event()
        add(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._fd)
