"""Tables and progress bars on a terminal, in which text from outside is text: no markup, no command of the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from punchlab.punch.stdio import unguarded
from punchlab.punch.text import printable_lines

WIDTH = 120
"""Columns of an output that is no terminal."""


class Screen(Console):
    """A console of rich on the stream. Strings are no markup: what is to have a style is a `rich.text.Text`.

    Rich passes most control characters on, so everything that is drawn is made printable here.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        super().__init__(file=unguarded(stream), width=width, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with their text made printable."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)


def screen(stream: TextIO) -> Screen:
    """A console on the stream, of a fixed width where that is no terminal."""
    made = Screen(stream)
    return made if made.is_terminal else Screen(stream, WIDTH)
