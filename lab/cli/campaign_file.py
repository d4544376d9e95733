"""Read a campaign file: TOML, with the line of every key; reading continues after an error."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from punchlab.lab.errors import InputError

_STATEMENT = re.compile(r"""\s*(?:\[|(?P<key>[\w-]+|"[^"]*"|'[^']*')\s*=)""", re.ASCII)
_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_NOT_READ = (ValueError, RecursionError)
"""The errors of the parser: `TOMLDecodeError`, a `ValueError`, and those of the limits of Python."""
_LARGEST = 64 * 1024
_MOST_MISTAKES = 100
_LONGEST_KEY = 100
"""Characters of a key that an error shows."""


@dataclass(frozen=True, slots=True)
class CampaignFile:
    """The content of a file: key -> value, and key -> line. `errors` are the errors of its syntax.

    `broken` are the keys of the lines with errors, as far as they are recognisable.
    """

    path: Path
    values: dict[str, object]
    lines: dict[str, int]
    errors: list[InputError]
    broken: set[str]


def read(path: Path) -> CampaignFile:
    """Read a campaign file. Raises `InputError` if it cannot be read."""
    try:
        text = _content(path).decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise InputError("campaign", str(path), f"UTF-8 ({error.reason} at byte {error.start})") from None
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError("campaign", str(path), f"a file that can be read ({reason})") from None
    # Lines as TOML defines them; other separators are text.
    lines = text.replace("\r\n", "\n").split("\n")
    errors: list[InputError] = []
    broken: set[str] = set()
    while True:
        try:
            values = tomllib.loads("\n".join(lines))
        except _NOT_READ as error:
            if len(errors) == _MOST_MISTAKES:
                return CampaignFile(path, {}, {}, errors, broken | {"topology"})
            first, last, reason = _mistake(lines, error)
            shown = lines[first].strip()
            key = _key(shown)
            where = f"{path}:{first + 1}" + (f": {key[:_LONGEST_KEY]}" if key else "")
            errors.append(InputError(where, shown, f"TOML ({reason})"))
            broken |= {key} if key else set()
            lines[first : last + 1] = [""] * (last + 1 - first)  # and look for further errors
            continue
        return CampaignFile(path, values, dict(_key_lines(lines)), errors, broken)


def _content(path: Path) -> bytes:
    """Return the content. Raises `OSError`; `ValueError` for a file that is not regular or too long."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST // 1024} KiB")
    return content


def _mistake(lines: list[str], error: Exception) -> tuple[int, int, str]:
    """Return the first and the last line of the malformed statement, from 0, and the message of the parser."""
    if not isinstance(error, tomllib.TOMLDecodeError):
        return _beyond_limits(lines)
    position = _POSITION.search(str(error))
    found = position["line"] if position else None
    last = len(lines) - 1 if found is None else int(found) - 1
    first = next((start for start, end in _statements(lines) if start <= last <= end), last)
    reason = _POSITION.sub("", str(error))
    opening = lines[first].count("[") > lines[first].count("]")
    if first < last or opening:
        # The parser reports an unclosed array at the next statement; an array with an error in it continues after that.
        later = range(first + 1, len(lines))
        last = next((number - 1 for number in later if _STATEMENT.match(lines[number])), len(lines) - 1)
    if all(_idle(line) for line in lines[first : last + 1]):  # the parser reports a line after the error
        first = last = max((number for number in range(len(lines)) if not _idle(lines[number])), default=first)
    return first, last, reason


def _beyond_limits(lines: list[str]) -> tuple[int, int, str]:
    """Return the statement that exceeds a limit of the parser: too many digits, or nested too deeply."""
    for start, end in _statements(lines):
        try:
            tomllib.loads("\n".join(lines[start : end + 1]))
        except tomllib.TOMLDecodeError:
            continue
        except RecursionError:
            return start, end, "nested too deeply"
        except ValueError:
            return start, end, "a number of too many digits"
    return 0, len(lines) - 1, "it cannot be parsed"


def _statements(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last line of every statement: a statement ends where the parser accepts it.

    A statement that the parser never accepts extends to the end.
    """
    done = 0  # lines before this one are complete statements
    for end in range(len(lines)):
        start = next((number for number in range(done, end + 1) if not _idle(lines[number])), None)
        if start is None:
            done = end + 1
        elif _whole(lines[start : end + 1]):
            yield start, end
            done = end + 1
    rest = next((number for number in range(done, len(lines)) if not _idle(lines[number])), None)
    if rest is not None:
        yield rest, len(lines) - 1


def _whole(lines: list[str]) -> bool:
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    except _NOT_READ:
        return True
    return True


def _idle(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _key_lines(lines: list[str]) -> Iterator[tuple[str, int]]:
    inside = False  # inside a table, whose keys are not top-level keys
    for start, end in _statements(lines):
        header = lines[start].lstrip().startswith("[")
        inside |= header
        if header or not inside:
            yield from ((key, start + 1) for key in tomllib.loads("\n".join(lines[start : end + 1])))


def _key(line: str) -> str | None:
    match = _STATEMENT.match(line)
    return match["key"].strip("\"'") if match and match["key"] else None
