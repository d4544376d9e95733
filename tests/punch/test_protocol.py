"""The documentation of the protocol is that of the code."""

from __future__ import annotations

from pathlib import Path

from punchlab.punch import frames, reflexive, relay
from punchlab.punch.probe import frames as probe
from punchlab.punch.protocol import PARTS, markdown


def test_the_page_is_up_to_date() -> None:
    """If this fails: python -m punchlab.punch.protocol > docs/protocol.md."""
    assert (Path(__file__).parents[2] / "docs" / "protocol.md").read_text() == markdown()


def test_the_page_has_all_frames() -> None:
    declared = {
        each
        for module in (frames, reflexive, relay, probe)
        for each in vars(module).values()
        if isinstance(each, type) and hasattr(each, "TYPE")
    }
    assert {cls for _title, classes in PARTS for cls, _direction in classes} == declared
