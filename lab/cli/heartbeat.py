"""Progress of commands whose output is not a terminal: a line on standard error every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_FIRST_S, _PERIOD_S = 1.0, 4.0
_SHARE = 60
"""The interval grows to this fraction of the elapsed time, so that a long run has a short log."""


class Heartbeat:
    """During the block, print the result of `words`, at first every four seconds."""

    def __init__(self, words: Callable[[], str]) -> None:
        self._words = words
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        begun, pause_s = time.monotonic(), _FIRST_S
        while not self._ended.wait(pause_s):
            try:
                print(self._words(), file=sys.stderr, flush=True)
            except OSError:  # the reader of standard error has exited
                return
            pause_s = max(_PERIOD_S, (time.monotonic() - begun) / _SHARE)
