"""The output of a `punch` command while it runs: one JSON object per line, or sentences for people.

An event never contains a secret, with one exception: the sender's `code`, which the user needs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

from punchlab.punch.text import printable_parts

Reporter = Callable[..., None]
"""Called as `report(event, t=None, **fields)`; `t` is an instant of `time.monotonic()`, by default now."""

Sentence = Callable[[dict[str, object]], str | None]


def json_reporter(stream: TextIO | None = None) -> Reporter:
    """Return a reporter that writes each event as one JSON line to `stream` (standard output), and flushes it."""

    def report(event: str, /, t: float | None = None, **fields: object) -> None:
        line = json.dumps({"event": event, "t": time.monotonic() if t is None else t, **fields})
        out = stream or sys.stdout
        out.write(line + "\n")
        out.flush()

    return report


def unfailing(report: Reporter) -> Reporter:
    """Return a reporter that drops events which cannot be written: a closed pipe or a full disk must not stop a
    service."""

    def unfailing_report(event: str, /, t: float | None = None, **fields: object) -> None:
        try:
            report(event, t, **fields)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError:
            pass

    return unfailing_report


def human_reporter(sentences: dict[str, Sentence], stream: TextIO | None = None) -> Reporter:
    """Return a reporter that writes the sentence of each event that has one to `stream` (standard output).

    The texts in the fields are made printable first, because they may come from outside.
    """

    def report(event: str, /, t: float | None = None, **fields: object) -> None:  # noqa: ARG001 (sentences have no time)
        sentence = sentences.get(event)
        text = sentence(cast("dict[str, object]", printable_parts(fields))) if sentence else None
        if text is not None:
            print(text, file=stream or sys.stdout, flush=True)

    return report
