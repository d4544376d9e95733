"""A campaign file: TOML, read with the line of every key, and on past its mistakes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError

_STATEMENT = re.compile(r"""\s*(?:\[|(?P<key>[\w-]+|"[^"]*"|'[^']*')\s*=)""", re.ASCII)
_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class CampaignFile:
    """What a file says: key -> value, and the line on which the key stands; `errors` is what TOML has no sense for.

    `broken` are the keys of the lines that `errors` is about, as far as they can be told.
    """

    path: Path
    values: dict[str, object]
    lines: dict[str, int]
    errors: list[InputError]
    broken: set[str]


def read(path: Path) -> CampaignFile:
    """Read a campaign file. Raises `InputError` for one that cannot be read at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("campaign", str(path), f"a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError("campaign", str(path), f"UTF-8 ({error.reason} at byte {error.start})") from None
    # What TOML calls a line; other separators are text.
    lines = text.replace("\r\n", "\n").split("\n")
    errors: list[InputError] = []
    broken: set[str] = set()
    while True:
        try:
            values = tomllib.loads("\n".join(lines))
        except tomllib.TOMLDecodeError as error:
            first, last, reason = _mistake(lines, error)
            shown = lines[first].strip()
            key = _key(shown)
            where = f"{path}:{first + 1}" + (f": {key}" if key else "")
            errors.append(InputError(where, shown, f"TOML ({reason})"))
            broken |= {key} if key else set()
            lines[first : last + 1] = [""] * (last + 1 - first)  # and see what else there is
            continue
        return CampaignFile(path, values, dict(_key_lines(lines)), errors, broken)


def _mistake(lines: list[str], error: tomllib.TOMLDecodeError) -> tuple[int, int, str]:
    """The first and the last line of the statement that is wrong, from 0, and what the parser says of it."""
    position = _POSITION.search(str(error))
    found = position["line"] if position else None
    last = len(lines) - 1 if found is None else int(found) - 1
    first = next((start for start, end in _statements(lines) if start <= last <= end), last)
    reason = _POSITION.sub("", str(error))
    opening = lines[first].count("[") > lines[first].count("]")
    if first < last or opening:
        # An array that is not closed is found out at the next statement, which is not to blame; and one with a mistake
        # in it goes on after that.
        later = range(first + 1, len(lines))
        last = next((number - 1 for number in later if _STATEMENT.match(lines[number])), len(lines) - 1)
    return first, last, reason


def _statements(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First and last line of every statement, as the parser itself sees them: where it is content with what is before.

    A statement that it is never content with goes to the end.
    """
    done = 0  # lines before this one are whole statements
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
    return True


def _idle(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _key_lines(lines: list[str]) -> Iterator[tuple[str, int]]:
    inside = False  # a table: its keys are its own
    for start, end in _statements(lines):
        header = lines[start].lstrip().startswith("[")
        inside |= header
        if header or not inside:
            yield from ((key, start + 1) for key in tomllib.loads("\n".join(lines[start : end + 1])))


def _key(line: str) -> str | None:
    match = _STATEMENT.match(line)
    return match["key"].strip("\"'") if match and match["key"] else None
