"""The parts of punchlab that the reference pages describe. Only this module imports punchlab."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from punchlab.lab.cli import arguments
from punchlab.lab.client import contract
from punchlab.lab.nat.preset import Preset
from punchlab.lab.nat.presets import CLASSICS, FIREWALLS, PRESETS
from punchlab.lab.results.axes import AXES
from punchlab.lab.results.documents import field_table
from punchlab.lab.results.outcomes import OUTCOMES
from punchlab.punch import cli as punch_cli
from punchlab.punch.nat.behavior import NatBehavior

__all__ = [
    "CAMPAIGN_FIELDS",
    "CLASSICS",
    "FIREWALLS",
    "OUTCOMES",
    "PRESETS",
    "PYTHON_API",
    "PYTHON_OPTIONS",
    "NatBehavior",
    "Preset",
    "contract",
    "field_table",
    "punch_parser",
    "punchlab_parser",
]

CAMPAIGN_FIELDS = tuple(AXES)
"""The axes of a campaign file."""

_BEHAVIOR = "punchlab.punch.nat.behavior"

PYTHON_API = {
    "Labs": ("punchlab.Lab", "punchlab.lab.graph.Path", "punchlab.lab.process.node.Node"),
    "Trials": ("punchlab.Trial", "punchlab.lab.exchange.story.Exchange", "punchlab.record"),
    "Clients under test": ("punchlab.Client", "punchlab.Function", "punchlab.Share"),
    "Running NATs and links": ("punchlab.lab.events.nat.RunningNat", "punchlab.lab.events.link.RunningLink"),
    "NAT behaviors": (
        "punchlab.NatBehavior",
        "punchlab.MappingBehavior",
        "punchlab.FilteringBehavior",
        "punchlab.PortAllocation",
        f"{_BEHAVIOR}.Pooling",
        f"{_BEHAVIOR}.Hairpinning",
        f"{_BEHAVIOR}.Unsolicited",
        f"{_BEHAVIOR}.IcmpErrors",
        f"{_BEHAVIOR}.PortMapping",
        f"{_BEHAVIOR}.Refresh",
        f"{_BEHAVIOR}.Timeouts",
    ),
    "Topologies": (
        "punchlab.topologies.internet.Internet",
        "punchlab.topologies.AB",
        "punchlab.topologies.CD",
        "punchlab.topologies.ABCD",
        "punchlab.topologies.SameNat",
        "punchlab.topologies.Carrier",
        "punchlab.topologies.Firewalls",
        "punchlab.topologies.DualStack",
        "punchlab.topologies.Home",
    ),
    "Errors": (
        "punchlab.PunchlabError",
        "punchlab.InputError",
        "punchlab.LabError",
        "punchlab.MissingCapabilityError",
        "punchlab.ClientError",
        f"{_BEHAVIOR}.BehaviorError",
    ),
}
"""Heading of a section of the API page -> the objects that it documents."""

PYTHON_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "punchlab.Lab": {"inherited_members": True},
    "punchlab.lab.process.node.Node": {"members": ["name", "kind", "address", "address6", "run", "popen"]},
}
"""Object of the API page -> its options of mkdocstrings. The page has all public members of any other object."""


def punchlab_parser() -> argparse.ArgumentParser:
    """The parser of the command `punchlab`, with all subcommands and options."""
    return arguments.parser()


def punch_parser() -> argparse.ArgumentParser:
    """The parser of the command `punch`, with all subcommands and options."""
    # The parser has the options of the commands that its argument names.
    return punch_cli._parser([command.name for command in punch_cli._COMMANDS])
