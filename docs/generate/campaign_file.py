"""The page of the campaign file, from the options of `punchlab run`."""

from __future__ import annotations

import argparse

from docs.generate import names
from docs.generate.markdown import cell, code, table

_LIMITS = ("trials", "until_ci", "min_trials", "links", "seed")


def page() -> str:
    """The page."""
    help_of = _help()
    return "\n\n".join(
        (
            "# The campaign file",
            (
                "A campaign file is a TOML file for `punchlab run`. [Run a campaign](../how-to/campaigns.md) "
                "explains how "
                "to use it. An option on the command line takes precedence over the file."
            ),
            "## Axes",
            (
                'An axis has one value or a list of values. `"none"` means no limit, or not set. Every combination of '
                "the values is a cell."
            ),
            table(("field", "meaning"), [(code(name), cell(help_of[name])) for name in names.CAMPAIGN_FIELDS]),
            "## Other fields",
            "These fields have one value.",
            table(("field", "meaning"), [(code(name), cell(help_of[name])) for name in _LIMITS]),
        )
    )


def _help() -> dict[str, str]:
    """Field -> its meaning: the help of the option of the same name."""
    (commands,) = (each for each in names.punchlab_parser()._actions if isinstance(each, argparse._SubParsersAction))
    run = commands.choices["run"]
    return {each.dest: (each.help or "").removesuffix(" *") for each in run._actions}
