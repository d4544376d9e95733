"""The parts of punchlab that the reference pages describe. Only this module imports punchlab."""

from __future__ import annotations

import argparse

from lab import contract
from lab.cli import arguments, axes
from lab.nat.preset import Preset
from lab.nat.presets import CLASSICS, FIREWALLS, PRESETS
from lab.verdict import OUTCOMES
from punch import cli as punch_cli
from punch.nat.behavior import NatBehavior
from reports.schema import COLUMNS

__all__ = [
    "CAMPAIGN_FIELDS",
    "CLASSICS",
    "COLUMNS",
    "FIREWALLS",
    "MEMBERS",
    "OUTCOMES",
    "PRESETS",
    "PYTHON_API",
    "NatBehavior",
    "Preset",
    "contract",
    "punch_parser",
    "punchlab_parser",
]

CAMPAIGN_FIELDS = tuple(axes.AXES)
"""The axes of a campaign file."""

PYTHON_API = {
    "Labs": ("lab.lab.Lab", "lab.lab.Path", "lab.node.Node"),
    "Trials": ("lab.options.Options", "lab.trial.Trial", "lab.exchange.story.Exchange"),
    "Clients under test": ("lab.client.Client", "lab.forked.Function"),
    "Running NATs and links": ("lab.nat.running.RunningNat", "lab.link.RunningLink"),
    "NAT behaviors": (
        "punch.nat.behavior.NatBehavior",
        "punch.nat.behavior.Mapping",
        "punch.nat.behavior.Filtering",
        "punch.nat.behavior.PortAllocation",
        "punch.nat.behavior.Pooling",
        "punch.nat.behavior.Hairpinning",
        "punch.nat.behavior.Unsolicited",
        "punch.nat.behavior.IcmpErrors",
        "punch.nat.behavior.PortMapping",
        "punch.nat.behavior.Refresh",
        "punch.nat.behavior.Timeouts",
    ),
    "Topologies": (
        "topologies.internet.Internet",
        "topologies.ab.AB",
        "topologies.cd.CD",
        "topologies.abcd.ABCD",
        "topologies.same_nat.SameNat",
        "topologies.carrier.Carrier",
        "topologies.firewalls.Firewalls",
        "topologies.dual_stack.DualStack",
        "topologies.home.Home",
    ),
    "Prediction": (
        "punch.nat.oracle.Dial",
        "punch.nat.oracle.Prediction",
        "punch.nat.oracle.Outcome",
    ),
    "Errors": (
        "lab.errors.PunchlabError",
        "lab.errors.InputError",
        "lab.errors.LabError",
        "lab.errors.MissingCapabilityError",
        "lab.errors.ClientError",
        "punch.nat.behavior.BehaviorError",
    ),
}
"""Heading of a section of the API page -> the objects that it documents."""

MEMBERS = {"lab.node.Node": ("name", "kind", "address", "address6", "run", "popen")}
"""Object of the API page -> its members on that page; of any other object all public members are there."""


def punchlab_parser() -> argparse.ArgumentParser:
    """The parser of the command `punchlab`, with all subcommands and options."""
    return arguments.parser()


def punch_parser() -> argparse.ArgumentParser:
    """The parser of the command `punch`, with all subcommands and options."""
    # The parser has the options of the commands that its argument names.
    return punch_cli._parser([command.name for command in punch_cli._COMMANDS])
