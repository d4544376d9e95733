"""bench.json: the results of each part, written when the part has ended.

The file is replaced atomically, so that a killed benchmark loses only the current part.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from punchlab.lab.errors import InputError

Found = dict[str, Any]
"""bench.json: `machine`, `parts` (part -> time, options and versions), `failed` (part -> reason), the results."""


class Store:
    """The results in a folder, including those of earlier runs.

    Raises `InputError` if the folder cannot be written, another benchmark is writing it, or its bench.json is invalid.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self.file = folder / "bench.json"
        self.found: Found = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise InputError("out", str(folder), "a folder that no other benchmark is writing") from None
            if self.file.exists():
                self.found = _read(self.file)
            self.found |= {"machine": dict(machine)}
            self.found.setdefault("parts", {})
            self.found["failed"] = {}
            self.save()
        except OSError as error:
            raise InputError("out", str(folder), f"a folder that can be written ({error.strerror})") from error

    def close(self) -> None:
        """Release the lock on the folder."""
        os.close(self._lock)

    def kept(self, part: str, asked: Mapping[str, Any]) -> str | None:
        """Return when the part was measured; None if options, machine or versions differ."""
        there = self.found["parts"].get(part)
        if there is None or (there["asked"], there["machine"]) != (dict(asked), self.found["machine"]):
            return None
        return str(there["ended"])

    def add(self, part: str, asked: Mapping[str, Any], found: Found) -> None:
        """Add the results of a part to `found` and save them. Raises OSError if they cannot be saved."""
        ended = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self.found |= found
        self.found["parts"][part] = {"asked": dict(asked), "machine": self.found["machine"], "ended": ended}
        self.save()

    def fail(self, part: str, reason: str) -> None:
        """Record the failure of the part; keep its results of an earlier run. Raises OSError."""
        self.found["failed"][part] = reason
        self.save()

    def save(self) -> None:
        """Write the file. Raises OSError and keeps the old file if that fails."""
        replace(self.file, (json.dumps(self.found, indent=2) + "\n").encode())


def replace(file: Path, content: bytes) -> None:
    """Replace the content of a file atomically. Raises OSError."""
    draft = file.with_name(f".{file.name}")
    try:
        draft.write_bytes(content)
        draft.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _read(file: Path) -> Found:
    """Return the content of the file. Raises `InputError`, OSError."""
    expected = "a file that script/bench wrote; move it away"
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise InputError("out", str(file), expected) from None
    if not isinstance(found, dict) or not isinstance(found.get("parts", {}), dict):
        raise InputError("out", str(file), expected)
    for each in found.get("parts", {}).values():
        if not isinstance(each, dict) or not {"asked", "machine", "ended"} <= each.keys():
            raise InputError("out", str(file), expected)
    return found
