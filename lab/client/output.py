"""Read standard output and standard error of a command incrementally, within limits."""

from __future__ import annotations

from collections import Counter

from punchlab.lab.client import contract
from punchlab.lab.client.contract import Event, Speaker
from punchlab.lab.errors import ClientError
from punchlab.punch.text import printable

LINE_BYTES, OUTPUT_BYTES, ERROR_BYTES = 1 << 20, 16 << 20, 64 << 20
"""The maximum size of one line of standard output, of all standard output, and of standard error."""

EVENTS_BYTES = 48 << 20
"""The approximate maximum memory for events: 40,000 of 130 bytes with six fields each."""

_EVENT_BYTES, _VALUE_BYTES = 350, 64
"""The approximate memory of an event, and of each of its names, values, arrays and objects."""
_TAIL_BYTES = 2000
"""The size of standard error that is kept."""


class Output:
    """The output of a command that was started at `started` (CLOCK_MONOTONIC).

    Lines without events are ignored. `lab.client.contract` checks the events. After the first violation, or when output
    exceeds a limit, `error` is set and all further output is discarded. Time is linear in the size of the output, and
    memory is limited.
    """

    def __init__(self, speaker: Speaker, started: float) -> None:
        self.events: list[Event] = []
        self.error: str | None = None
        self.excessive = False
        self.speaker, self._started = speaker, started
        self._first: dict[str, Event] = {}
        self._counts: Counter[str] = Counter()
        self._line, self._tail = bytearray(), bytearray()
        self._received = self._errors_received = self._memory = 0

    def first(self, name: str) -> Event | None:
        """Return the first event of that name, or None."""
        return self._first.get(name)

    def count(self, name: str) -> int:
        """Return the number of events of that name."""
        return self._counts[name]

    @property
    def errors(self) -> str:
        """The end of standard error, with printable lines."""
        text = "\n".join(map(printable, self._tail.decode(errors="replace").strip().splitlines()))
        return text[-_TAIL_BYTES:]

    def take(self, chunk: bytes, received: float) -> None:
        """Process a chunk of standard output, received at that time."""
        self._received += len(chunk)
        first, end, rest = chunk.partition(b"\n")
        self._add(first)
        if end:
            self.finish(received)
            lines, _end, last = rest.rpartition(b"\n")
            if (
                contract.MARK in lines or len(lines) > LINE_BYTES
            ):  # otherwise, millions of short lines would take minutes
                for line in lines.split(b"\n"):
                    if contract.MARK in line or len(line) > LINE_BYTES:
                        self._add(line)
                        self.finish(received)
            self._add(last)
        if self._received > OUTPUT_BYTES:
            self.exceed(f"more than {OUTPUT_BYTES >> 20} MiB on standard output")

    def take_errors(self, chunk: bytes, _received: float) -> None:
        """Process a chunk of standard error."""
        self._errors_received += len(chunk)
        self._tail += chunk
        del self._tail[:-_TAIL_BYTES]
        if self._errors_received > ERROR_BYTES:
            self.exceed(f"more than {ERROR_BYTES >> 20} MiB on standard error")

    def finish(self, received: float) -> None:
        """Process the last line, which may lack a newline."""
        line = bytes(self._line)
        self._line.clear()
        if self.error is not None:
            return
        try:
            event = contract.event_on(line, self.speaker, self._started, received)
        except ClientError as error:
            self.error = str(error)
            return
        if event is None:
            return
        self._memory += len(line) + _EVENT_BYTES + _VALUE_BYTES * sum(map(line.count, (b"[", b"{", b",", b":")))
        if self._memory > EVENTS_BYTES:
            self.exceed(f"events that take more than {EVENTS_BYTES >> 20} MiB of memory")
            return
        self.events.append(event)
        self._first.setdefault(event["event"], event)
        self._counts[event["event"]] += 1

    def _add(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > LINE_BYTES:
            self.exceed(f"a line of more than {LINE_BYTES >> 20} MiB on standard output")

    def exceed(self, what: str) -> None:
        """Record that the output exceeds a limit, and discard further output."""
        self.excessive = True
        self.fail(what)
        self._line.clear()

    def fail(self, what: str) -> None:
        """Record the first contract violation."""
        self.error = self.error or str(self.speaker.error(what))
