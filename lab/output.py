"""What a command writes to standard output, taken in by and by: its events, within bounds."""

from __future__ import annotations

from lab import contract
from lab.contract import Event, Speaker
from lab.errors import ClientError

LINE_BYTES, OUTPUT_BYTES = 1 << 20, 16 << 20
"""The most that a command may write in one line, and altogether."""


class Output:
    """The output of a command that was started at `started` (CLOCK_MONOTONIC).

    Lines that are no events are passed over. The events are checked by `lab.contract`; the first that breaks it, or
    output beyond the bounds, is in `error`, and nothing that comes later is taken in.
    """

    def __init__(self, speaker: Speaker, started: float) -> None:
        self.events: list[Event] = []
        self.error: str | None = None
        self.excessive = False
        self.speaker, self._started = speaker, started
        self._line = bytearray()
        self._received = 0

    def take(self, chunk: bytes, received: float) -> None:
        """Take in what came at that time."""
        self._received += len(chunk)
        first, *rest = chunk.split(b"\n")
        self._add(first)
        if rest:
            self.finish(received)
            for line in rest[:-1]:
                if contract.MARK in line or len(line) > LINE_BYTES:  # else millions of short lines would take minutes
                    self._add(line)
                    self.finish(received)
            self._add(rest[-1])
        if self._received > OUTPUT_BYTES:
            self.exceed(f"more than {OUTPUT_BYTES >> 20} MiB on standard output")

    def finish(self, received: float) -> None:
        """That was a whole line, with or without an end."""
        event = contract.parse(bytes(self._line)) if self.error is None else None
        self._line.clear()
        if event is not None:
            try:
                self.events.append(contract.checked(event, self.speaker, self._started, received))
            except ClientError as error:
                self.error = str(error)

    def _add(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > LINE_BYTES:
            self.exceed(f"a line of more than {LINE_BYTES >> 20} MiB on standard output")

    def exceed(self, what: str) -> None:
        """It writes without bounds: nothing more is taken in."""
        self.excessive = True
        self.fail(what)
        self._line.clear()

    def fail(self, what: str) -> None:
        """It broke the contract in that way, unless it had before."""
        self.error = self.error or str(self.speaker.error(what))
