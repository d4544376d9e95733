"""`python -m docs.generate FOLDER` writes the reference pages to a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from docs.generate import campaign_file, commands, contract, presets, python_api, results

PAGES: Mapping[str, Callable[[], str]] = {
    "punchlab.md": partial(commands.page, "punchlab"),
    "punch.md": partial(commands.page, "punch"),
    "campaign-file.md": campaign_file.page,
    "results.md": results.page,
    "presets.md": presets.page,
    "client-contract.md": contract.page,
    "python.md": python_api.page,
}


def write(folder: Path) -> None:
    """Write every page to the folder, which is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        file = folder / name
        content = page().rstrip() + "\n"
        # An unchanged file keeps its time, so that a preview of the site does not reload.
        if not file.exists() or file.read_text() != content:
            file.write_text(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="Write the reference pages.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="created if it does not exist")
    write(parser.parse_args().folder)
