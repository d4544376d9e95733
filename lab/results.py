"""A run's folder: run.json (what was asked for), results.jsonl (a record per finished trial), captures/*.pcapng.

Records are appended in one write each, so a killed run loses at most the trial that it was writing; that half line is
cut off when the run continues.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.errors import InputError

Record = Mapping[str, Any]


class RunFolder:
    """The results of one run. Raises `InputError` for a folder that holds a different run, or cannot be written."""

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self.path = path
        self.captures = path / "captures"
        self._results = path / "results.jsonl"
        try:
            self.captures.mkdir(parents=True, exist_ok=True)
            self._claim(parameters)
            self.records = list(self._finished())
            self._file = self._results.open("ab", buffering=0)
        except OSError as error:
            raise InputError("out", str(path), f"a directory that can be written ({error.strerror})") from error

    def append(self, record: Record) -> None:
        """Write one record down."""
        self._file.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        self.records.append(record)

    def close(self) -> None:
        """Close the results file."""
        self._file.close()

    def _claim(self, parameters: Mapping[str, Any]) -> None:
        file = self.path / "run.json"
        asked = json.loads(json.dumps(parameters))
        if file.exists():
            try:
                there = json.loads(file.read_text())
            except ValueError:
                raise InputError("out", str(self.path), "a folder whose run.json can be read") from None
            different = sorted(key for key in asked.keys() | there.keys() if asked.get(key) != there.get(key))
            if different:
                key = different[0]
                raise InputError(
                    "out", str(self.path), f"a new folder, for this one holds a run with {key} = {there.get(key)!r}"
                )
            return
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(asked, indent=2) + "\n")
        draft.replace(file)

    def _finished(self) -> Iterator[Record]:
        if not self._results.exists():
            return
        data = self._results.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._results, whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                yield json.loads(line)
            except ValueError:
                raise InputError("out", f"{self._results}:{number}", "a JSON object per line") from None
