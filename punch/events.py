"""What a `punch` command says while it runs: one JSON object a line, or sentences for people.

An event never carries a secret, with one exception: the sender's `code`, which is there to be read.
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
"""Called as `report(event, t=None, **fields)`; `t` is an instant of `time.monotonic()`, now if not given."""

Sentence = Callable[[dict[str, object]], str | None]


def json_reporter(stream: TextIO | None = None) -> Reporter:
    """Reports every event as one JSON line, flushed at once, on `stream` (standard output)."""

    def report(event: str, /, t: float | None = None, **fields: object) -> None:
        line = json.dumps({"event": event, "t": time.monotonic() if t is None else t, **fields})
        out = stream or sys.stdout
        out.write(line + "\n")
        out.flush()

    return report


def unfailing(report: Reporter) -> Reporter:
    """`report`, but an event that cannot be written is lost: a service outlives its log's reader, and a full disk."""

    def unfailing_report(event: str, /, t: float | None = None, **fields: object) -> None:
        try:
            report(event, t, **fields)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError:
            pass

    return unfailing_report


def human_reporter(sentences: dict[str, Sentence], stream: TextIO | None = None) -> Reporter:
    """Reports those events that have a sentence, on `stream` (standard output).

    A sentence gets its fields with every text in them printable: it may be from outside.
    """

    def report(event: str, /, t: float | None = None, **fields: object) -> None:  # noqa: ARG001 (people need no instants)
        sentence = sentences.get(event)
        text = sentence(cast("dict[str, object]", printable_parts(fields))) if sentence else None
        if text is not None:
            print(text, file=stream or sys.stdout, flush=True)

    return report
