"""Reports for tests, and what a reader sees of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from punchlab import reports
from tests.reports.sample import record, write_run

DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """What a reader sees of a page: its table rows and its text, and everything it refers to."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.tags: list[str] = []
        self.references: list[str] = []
        self.alts: list[str] = []
        self._in_cell = self._in_style = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                self.references.append(value or "")
            if name == "alt":
                self.alts.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._in_cell = False
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def pair(self, nat_a: str, nat_b: str) -> list[str]:
        return next(row for row in self.rows if row[:2] == [nat_a, nat_b])


def disagreeing(number: int = 0, **changes: Any) -> dict[str, Any]:
    wrong: dict[str, Any] = {"outcome": "refused", "agrees": False, "reason": "NAT b answered the SYN of a with RST"}
    return record("full_cone", "symmetric", number, **(wrong | changes))


def write(directory: Path, records: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> Path:
    reports.write(write_run(directory, records, parameters))
    return directory


def page(directory: Path) -> Page:
    return Page((directory / "index.html").read_text())


def svg_words(directory: Path, name: str) -> list[str]:
    """matplotlib draws letters as shapes and writes each text as a comment."""
    return re.findall(r"<!-- (.*?) -->", (directory / "charts" / f"{name}.svg").read_text(), re.DOTALL)
