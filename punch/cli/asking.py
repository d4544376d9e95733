"""A question at the terminal that controls this process, whatever standard input and output are."""

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
_LONGEST = 4096  # bytes of an answer; a terminal has no longer lines


class Terminal:
    """The controlling terminal, in the foreground of which this process runs. A context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls) -> Self | None:
        """None if there is none, or if this process runs in its background: to read there would stop it."""
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
        """Show what is offered and ask whether to store it. No answer, or the end of the terminal, is no."""
        await self._say(f"{offer_text(summary)}\n")
        question = f"Store this in {printable(directory)}? [y/N] "
        with contextlib.suppress(termios.error):  # what was typed before was no answer to this
            termios.tcflush(self._fd, termios.TCIFLUSH)
        answered = False
        try:
            while True:
                await self._say(question)
                answer = await self._line()
                answered = answer is not None and answer.endswith("\n")
                word = (answer or "").strip().lower()
                if word in _YES or word in _NO:
                    return word in _YES
        finally:
            if not answered:  # the cursor is still behind the question
                with contextlib.suppress(OSError):
                    os.write(self._fd, b"\n")

    async def _line(self) -> str | None:
        """The next line, with its end; less, or None, at the end of the terminal."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready(loop.add_reader, loop.remove_reader)
            try:
                return os.read(self._fd, _LONGEST).decode(errors="replace") or None
            except BlockingIOError:
                continue
            except OSError:
                return None

    async def _say(self, text: str) -> None:
        loop = asyncio.get_running_loop()
        data = memoryview(printable_lines(text).encode())
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # it is stopped, or slow
                await self._ready(loop.add_writer, loop.remove_writer)
            except OSError:
                return  # it has gone; the next read says so

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = asyncio.Event()
        add(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._fd)
