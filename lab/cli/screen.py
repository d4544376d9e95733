"""Tables and progress bars on a terminal that display foreign text literally, without markup or terminal commands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from punchlab.punch.stdio import unguarded
from punchlab.punch.text import printable_lines

WIDTH = 120
"""The width of output that is not a terminal."""


class Screen(Console):
    """A rich console. Strings are not markup; styled text is a `rich.text.Text`.

    rich passes most control characters through, so this class makes all text printable.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        super().__init__(file=unguarded(stream), width=width, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of a renderable with printable text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)


def screen(stream: TextIO) -> Screen:
    """Return a console on the stream, with a fixed width unless it is a terminal."""
    made = Screen(stream)
    return made if made.is_terminal else Screen(stream, WIDTH)


class Wrapped:
    """Text in a table cell that wraps at spaces and after hyphens, never inside a word."""

    _PIECE = re.compile(r"[^\s-]+-+(?=[^\s-])|\S+\s*|\s+")

    def __init__(self, text: Text | str) -> None:
        self._text = Text(text) if isinstance(text, str) else text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the widths of the longest piece and of the whole text."""
        longest = max((len(piece.rstrip()) for piece in self._PIECE.findall(self._text.plain)), default=0)
        return Measurement(longest, len(self._text.plain))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        """Return the lines."""
        breaks, begun = [], 0
        for piece in self._PIECE.finditer(self._text.plain):
            if begun < piece.start() and len(piece[0].rstrip()) + piece.start() - begun > options.max_width:
                begun = piece.start()
                breaks.append(begun)
        for line in self._text.divide(breaks):
            line.rstrip()
            line.no_wrap, line.overflow = True, "fold"
            yield line
