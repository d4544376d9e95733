"""Tables and progress bars on a terminal that display foreign text literally, without markup or terminal commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
