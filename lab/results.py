"""A run's folder: run.json (what was asked for), results.jsonl (a record per finished trial), captures/*.pcapng.

Records are appended in one write each, so a killed run loses at most the trial that it was writing; that half line is
cut off when the run continues. A folder belongs to one run at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.errors import InputError, LabError

Record = Mapping[str, Any]
_FIELDS = {"id", "nat_a", "nat_b", "outcome", "reason", "agrees"}
"""What every record has, whatever became of the trial."""


class RunFolder:
    """The results of one run; `records` has those of the trials that need not be run again, in brief.

    Of a trial that went as predicted only the fields that every record has are kept in memory.

    Raises `InputError` for a folder that holds a different run, that another run is writing, or that cannot be written.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self.path = path
        self.captures = path / "captures"
        self._results = path / "results.jsonl"
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._lock(stack)
                self._claim(parameters)
                self.captures.mkdir(exist_ok=True)
                self.records = list(self._finished())
                self._file = stack.enter_context(self._results.open("ab", buffering=0))
            except OSError as error:
                raise InputError("out", str(path), f"a directory that can be written ({error.strerror})") from error
            self._stack = stack.pop_all()

    def append(self, record: Record, capture: bytes | None = None) -> Record:
        """Write one record down, after its packets (pcapng), which it then names. Raises `LabError`."""
        if capture is not None:
            record = {**record, "capture": f"{self.captures.name}/{record['id']}.pcapng"}
            self._put(self.path / record["capture"], capture)
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            while line:  # a disk that fills up takes a part first
                line = line[self._file.write(line) :]
        except OSError as error:
            raise LabError(f"results: {self._results}: {error.strerror}") from error
        self.records.append(_brief(record))
        return record

    def close(self) -> None:
        """Let go of the folder."""
        self._stack.close()

    def _put(self, file: Path, content: bytes) -> None:
        draft = file.with_name(f".{file.name}")
        try:
            draft.write_bytes(content)
            draft.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise LabError(f"capture: {file}: {error.strerror}") from error

    def _lock(self, stack: contextlib.ExitStack) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("out", str(self.path), "a folder that no other run is writing") from None
        except OSError:  # a file system without locks, such as some over a network
            return

    def _claim(self, parameters: Mapping[str, Any]) -> None:
        file = self.path / "run.json"
        asked = json.loads(json.dumps(parameters))
        if file.exists():
            try:
                there = _json_object(file.read_bytes())
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
            where = f"{self._results}:{number}"
            try:
                record = _json_object(line)
            except ValueError:
                raise InputError("out", where, "a JSON object per line") from None
            if missing := _FIELDS - record.keys():
                raise InputError("out", where, f"a result record with {', '.join(sorted(missing))}")
            if record["outcome"] != "lab_error":  # nothing was measured; the trial is run again
                yield _brief(record)


def _brief(record: Record) -> Record:
    whole = record["agrees"] is False or record["outcome"] == "lab_error"
    return record if whole else {name: record[name] for name in _FIELDS}


def _json_object(text: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
