"""Recorded events that tests can wait for."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

Event = dict[str, Any]
PATIENCE_S = 30.0


def matches(event: Event, name: str, fields: Event) -> bool:
    return event["event"] == name and all(event.get(key) == value for key, value in fields.items())


class Recorder:
    """A reporter that stores its events, for use in an event loop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: str, /, t: float | None = None, **fields: object) -> None:
        self.events.append({"event": event, **({} if t is None else {"t": t}), **fields})
        self._news.set()

    def all(self, name: str, /, **fields: object) -> list[Event]:
        return [event for event in self.events if matches(event, name, fields)]

    async def wait_for(self, name: str, /, count: int = 1, **fields: object) -> Event:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(found := self.all(name, **fields)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no event {name} {fields} within {PATIENCE_S} s: {self.events}") from None
        return found[count - 1]


def _entering(group: Path | None) -> list[str]:
    """Return a command that runs in a control group."""
    return [] if group is None else ["sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh"]


class Command:
    """A running `punch ... --json` process; `within` is a control group."""

    def __init__(
        self, *arguments: str | Path, cwd: Path | None = None, stdin: str | None = None, within: Path | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*_entering(within), sys.executable, "-W", "error", "-m", "punchlab.punch", *map(str, arguments), "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        assert self.process.stdin is not None
        if stdin is not None:
            self.process.stdin.write(stdin)
        self.process.stdin.close()
        self.events: list[Event] = []
        self._errors: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._read_events), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    @property
    def errors(self) -> list[str]:
        """The lines of standard error, after the process has ended."""
        return [line.rstrip("\n") for line in self._errors]

    def wait_for(self, name: str, /, **fields: object) -> Event:
        until = time.monotonic() + 2 * PATIENCE_S  # other events may continue without end
        while True:
            for event in self.events:
                if matches(event, name, fields):
                    return event
            assert time.monotonic() < until, f"no event {name} {fields}: {self.events}"
            line = self._lines.get(timeout=PATIENCE_S)
            assert line is not None, f"ended without {name}: {self.events} {self._errors}"
            self.events.append(json.loads(line))

    def all(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def finish(self, *, terminate: bool = False) -> int:
        """Wait for the process to end; return its exit status."""
        if terminate:
            self.process.send_signal(signal.SIGTERM)
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            self.events.append(json.loads(line))
        self._reap()
        return self.process.returncode
