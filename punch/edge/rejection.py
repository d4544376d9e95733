"""Why a connection is closed: the reason for the client, for the log and for the metrics."""

from __future__ import annotations

import re
from typing import NamedTuple

from punchlab.punch.edge.limits import LimitError
from punchlab.punch.errors import FrameError, RefusedError

_CLIENTS_WORDS = re.compile(r"[:'\"]|(?<= type) ")
"""Where the part of a `FrameError`'s text begins that may quote the client."""


class Rejection(NamedTuple):
    """The `reason` for the client, the text for the log (which quotes nothing from the client), and the kind."""

    reason: str
    logged: str
    kind: str


def rejection(error: FrameError | RefusedError | TimeoutError) -> Rejection:
    """Return the reason, the log text and the kind of `error`."""
    text = str(error)
    if isinstance(error, FrameError):
        return Rejection(text, _CLIENTS_WORDS.split(text, maxsplit=1)[0].rstrip(), "frame")
    if isinstance(error, LimitError):
        return Rejection(text, text, error.limit)
    if isinstance(error, RefusedError):
        return Rejection(text, text, "refused")
    return Rejection("did not register in time", "did not register in time", "late")
