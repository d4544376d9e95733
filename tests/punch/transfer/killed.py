"""usage: python -m tests.punch.transfer.killed DIRECTORY STEP

Stores files and directories in a process that is killed before every STEPth line of `punch.transfer.files.final_names`
and of the functions that it calls, each time in another directory. Then a second process does the same without being
killed. Prints one JSON line per kill: what the user finds after it, and at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from punchlab.punch.transfer.files import final_names, renameat2
from punchlab.punch.transfer.files.file_sink import FileSink, Incoming
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.offer import DirectoryInfo, FileInfo, Offered
from tests.punch.transfer.transfers import PARTIAL_NAMES

OFFERED: list[Offered] = [
    FileInfo("a", 1),
    FileInfo("b", 1),
    FileInfo("d/x", 1),
    FileInfo("d/sub/y", 1),
    DirectoryInfo("d/empty"),
    FileInfo("e/z", 1),
]


def store(directory: Path) -> None:
    """Receive all files. Raises `FileError`."""
    with FileSink(directory, force=False, partial_names=PARTIAL_NAMES) as inbox:
        inbox.check(OFFERED)
        arrived: list[Incoming] = []
        for info in OFFERED:
            if isinstance(info, FileInfo):
                with inbox.create(info) as incoming:
                    incoming.write(b"x")
                    incoming.verify(hashlib.sha256(b"x").digest())
                arrived.append(incoming)
        inbox.store(OFFERED, arrived)


def killed_at(directory: Path, line: int) -> bool:
    """Store in a process that is killed before that line; return whether there was such a line."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in (final_names.__file__, renameat2.__file__):
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        store(directory)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def visible(directory: Path) -> list[str]:
    """Return all files and directories that have their final names."""
    names = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    return sorted(name for name in names if not name.startswith("."))


def main() -> None:
    """See the top of this module."""
    line = step = int(sys.argv[2])
    while True:
        directory = Path(sys.argv[1]) / str(line)
        directory.mkdir()
        if not killed_at(directory, line):
            return
        after = visible(directory)
        refused = ""
        try:
            store(directory)
        except FileError as error:
            refused = str(error)
        print(json.dumps({"line": line, "after": after, "refused": refused, "end": visible(directory)}))
        line += step


if __name__ == "__main__":
    main()
