"""Why a connection was ended: for its client, for the log, and for the metrics."""

from __future__ import annotations

import re
from typing import NamedTuple

from punchlab.punch.edge.limits import LimitError
from punchlab.punch.errors import FrameError, RefusedError

_CLIENTS_WORDS = re.compile(r"[:'\"]|(?<= type) ")
"""Where in the text of a `FrameError` the part may begin that the client wrote."""


class Rejection(NamedTuple):
    """The `reason` for the client; the words for the log, with nothing in them that the client wrote; the kind."""

    reason: str
    logged: str
    kind: str


def rejection(error: FrameError | RefusedError | TimeoutError) -> Rejection:
    """What to say about `error`."""
    text = str(error)
    if isinstance(error, FrameError):
        return Rejection(text, _CLIENTS_WORDS.split(text, maxsplit=1)[0].rstrip(), "frame")
    if isinstance(error, LimitError):
        return Rejection(text, text, error.limit)
    if isinstance(error, RefusedError):
        return Rejection(text, text, "refused")
    return Rejection("did not register in time", "did not register in time", "late")
