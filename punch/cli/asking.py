"""A question at the terminal that controls this process, whatever standard input and output are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Mapping
from typing import Any, Self

from punch.fields import printable
from punch.sentences import offer_text

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
        self._say(f"{offer_text(summary)}\n")
        question = f"Store this in {printable(directory)}? [y/N] "
        with contextlib.suppress(termios.error):  # what was typed before was no answer to this
            termios.tcflush(self._fd, termios.TCIFLUSH)
        answered = False
        try:
            while True:
                self._say(question)
                answer = await self._line()
                answered = answer is not None and answer.endswith("\n")
                word = (answer or "").strip().lower()
                if word in _YES or word in _NO:
                    return word in _YES
        finally:
            if not answered:
                self._say("\n")  # the cursor is still behind the question

    async def _line(self) -> str | None:
        """The next line, with its end; less, or None, at the end of the terminal."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                try:
                    return os.read(self._fd, _LONGEST).decode(errors="replace") or None
                except BlockingIOError:
                    continue
                except OSError:
                    return None
        finally:
            loop.remove_reader(self._fd)

    def _say(self, text: str) -> None:
        data = memoryview(text.encode(errors="replace"))
        with contextlib.suppress(OSError):  # the terminal may have gone, or may be stopped
            while data:
                data = data[os.write(self._fd, data) :]
