"""The pages that people read, and the fenced blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
GENERATED = PROJECT / "docs" / "reference"
PAGES = (
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted(page for page in (PROJECT / "docs").rglob("*.md") if not page.is_relative_to(GENERATED)),
)
"""Every page except those that `docs.generate` writes."""

_BLOCK = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$', flags=re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^ *(```|~~~)", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. One with a title is a file of that name."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> Sequence[str]:
        """The commands of a block of shell, each on one line."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def name(page: Path) -> str:
    """The path of a page within the project."""
    return str(page.relative_to(PROJECT))


def blocks(page: Path) -> Sequence[Block]:
    """The blocks of a page in order. Raises AssertionError for an indented block."""
    text = page.read_text()
    found = [Block(match["language"], match["title"], match["text"]) for match in _BLOCK.finditer(text)]
    assert 2 * len(found) == len(_FENCE.findall(text)), f"{name(page)}: a fenced block that no test sees"
    return found


def commands(page: Path) -> Iterator[str]:
    """The commands in the blocks of shell of a page, in order."""
    for block in blocks(page):
        if block.language == "sh":
            yield from block.commands
