"""The end of a run of many NATs, without its trials: `show` prints what a user sees."""

from __future__ import annotations

from punchlab.lab.cli import axes
from punchlab.lab.cli.arguments import parse
from punchlab.lab.cli.progress import RunProgress


def show() -> None:
    campaign = axes.campaign(parse(["run", "ab", "--nat-a", "all", "--nat-b", "all"]))
    records = [{"id": f"{cell.id}-0001", "outcome": "direct", "agrees": True} for cell in campaign.cells]
    progress = RunProgress(campaign)
    progress.update(records * 5, len(records) * 5)
    progress.summary()
