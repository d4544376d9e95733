"""The folder of a run: run.json (its parameters), results.jsonl (one record per finished trial), captures/*.pcapng.

Each record is appended by one write, so a killed run loses at most the trial that it was writing; a truncated last line
is removed when the run resumes. A folder belongs to one run at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from punchlab.lab.campaign.files import write_error
from punchlab.lab.errors import InputError, LabError
from punchlab.lab.kernel.folder import Folder
from punchlab.lab.results import read
from punchlab.punch.text import safe_json

Record = Mapping[str, Any]
_FIELDS = {"id", "nat_a", "nat_b", "outcome", "reason", "agrees"}
"""The fields that every record has."""


class Results:
    """The files to which a run appends records. Several processes may append to the same folder.

    Raises `OSError` for a folder that cannot be written.
    """

    def __init__(self, folder: Folder) -> None:
        self.file = folder.path / "results.jsonl"
        with contextlib.ExitStack() as stack:
            self._captures = stack.enter_context(folder.folder("captures", create=True))
            self._file = stack.enter_context(folder.append(self.file.name))
            self._stack = stack.pop_all()

    def append(self, record: Record, capture: bytes | None = None) -> Record:
        """Write the packets (pcapng), then the record, which names their file; return the record.

        A record is written completely or not at all. Raises `LabError`.
        """
        if capture is not None:
            name = f"{record['id']}.pcapng"
            record = {**record, "capture": f"captures/{name}"}
            try:
                self._captures.replace(name, capture)
            except OSError as error:
                raise write_error("capture", self._captures.path / name, error) from error
        document = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode(errors="replace").decode()
        line = f"{safe_json(document)}\n".encode()
        try:
            with self._alone():
                before = os.fstat(self._file.fileno()).st_size
                try:
                    while line:  # a full disk accepts a part
                        line = line[self._file.write(line) :]
                except OSError:
                    self._file.truncate(before)
                    raise
        except OSError as error:
            raise LabError(f"results: {self.file}: {error.strerror}") from error
        return record

    def close(self) -> None:
        """Close the file and the folder of captures."""
        self._stack.close()

    def content(self) -> bytes:
        """Return the content of the file."""
        self._file.seek(0)
        return self._file.readall()

    def truncate(self, size: int) -> None:
        """Remove all but the first `size` bytes of the file."""
        self._file.truncate(size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the file against other processes, if the file system has locks."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)


class RunFolder:
    """The results of one run. `records` has the records of finished trials.

    If a trial agrees with the prediction, only the fields that every record has are kept in memory.

    Raises `InputError` for a folder that contains a different run, that another run is writing, or that cannot be
    written.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self.path = path
        with contextlib.ExitStack() as stack:
            try:
                self._folder = stack.enter_context(Folder.open(path, create=True))
                self._lock()
                self._claim(parameters)
                self._results = Results(self._folder)
                stack.callback(self._results.close)
                self.records = list(self._finished())
            except OSError as error:
                raise write_error("out", path, error, "a directory") from error
            self._stack = stack.pop_all()

    def append(self, record: Record, capture: bytes | None = None) -> Record:
        """Write a record as `Results.append`. Raises `LabError`."""
        record = self._results.append(record, capture)
        self.records.append(_brief(record))
        return record

    def close(self) -> None:
        """Release the folder."""
        self._stack.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._folder.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("out", str(self.path), "a folder that no other run is writing") from None
        except OSError:  # a file system without locks, such as some network file systems
            return

    def _claim(self, parameters: Mapping[str, Any]) -> None:
        requested = json.loads(json.dumps(parameters))
        try:
            existing = read.json_object(self._folder.read("run.json"))
        except FileNotFoundError:
            self._folder.replace("run.json", (json.dumps(requested, indent=2) + "\n").encode())
        except ValueError:
            raise InputError("out", str(self.path), "a folder whose run.json can be read") from None
        else:
            different = sorted(
                key for key in requested.keys() | existing.keys() if requested.get(key) != existing.get(key)
            )
            if different:
                key = different[0]
                raise InputError(
                    "out", str(self.path), f"a new folder; this one contains a run with {key} = {existing.get(key)!r}"
                )

    def _finished(self) -> Iterator[Record]:
        file = self._results.file
        *lines, tail = self._results.content().split(b"\n")
        if not b"{".startswith(tail[:1]):  # not the first part of a record, so the file is not from a run
            raise InputError("out", f"{file}:{len(lines) + 1}", "a JSON object per line")
        for number, line in enumerate(lines, start=1):
            where = f"{file}:{number}"
            try:
                record = read.current(read.json_object(line))
            except ValueError:
                raise InputError("out", where, "a JSON object per line") from None
            if missing := _FIELDS - record.keys():
                raise InputError("out", where, f"a result record with {', '.join(sorted(missing))}")
            if record["outcome"] != "lab_error":  # no measurement; the trial is run again
                yield _brief(record)
        if tail:
            self._results.truncate(sum(len(line) + 1 for line in lines))


def _brief(record: Record) -> Record:
    whole = record["agrees"] is False or record["outcome"] == "lab_error"
    return record if whole else {name: record[name] for name in _FIELDS}
