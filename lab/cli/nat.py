"""`punchlab nat`: list, show and check NAT presets."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from punchlab.lab.check.clock import shortened
from punchlab.lab.errors import InputError
from punchlab.lab.inputs import numbers
from punchlab.lab.nat import portmapping, presets
from punchlab.lab.nat.preset import Preset
from punchlab.lab.nat.rules import rules
from punchlab.lab.nat.script import script
from punchlab.punch.nat.behavior import NatBehavior, PortMapping, Timeouts

if TYPE_CHECKING:
    from punchlab.lab.check.check import Check
    from punchlab.topologies import Home


NOT_TESTED_STATUS = 3
"""Exit status of `nat check` if no claim was refuted, but some were not tested."""


def check(given: argparse.Namespace) -> None:
    """Raise `InputError` for an invalid name, interface or address."""
    if given.action == "list":
        return
    if given.action == "check":
        numbers.jobs("jobs", given.jobs)
        if given.time_scale is not None:
            numbers.number("time-scale", given.time_scale, least=0.001, most=1e6)
        for nat in _behaviors(given).values():
            if nat is not None:
                shortened(nat.timeouts, given.time_scale)
        return
    behavior = presets.behavior(given.name, port_mapping=given.port_mapping)
    if given.rules and behavior is None:
        raise InputError("nat", given.name, "a NAT, because a public host has no rules")
    for field in ("inside", "outside"):
        if not re.fullmatch(r"[\w.@:-]{1,15}", getattr(given, field)):
            raise InputError(field, getattr(given, field), "the name of a network interface")
    try:
        ipaddress.IPv4Address(given.address) + (behavior.pool_size - 1 if behavior else 0)
    except ValueError:
        raise InputError("address", given.address, "an IPv4 address") from None


def run(given: argparse.Namespace) -> int:
    """Run `punchlab nat list`, `punchlab nat show` and `punchlab nat check`."""
    if given.action == "check":
        return _run_check(given)
    if given.action == "list":
        head = ("NAME", "MAPPING", "FILTERING", "PORTS", "UNSOLICITED", "CONFIDENCE", "SOURCE")
        rows = [_row(name, preset) for name, preset in presets.PRESETS.items()]
        table = _table([head, *rows])
        print(table if _fits(table) else _paragraphs(head, rows))
        return 0
    preset = presets.preset(given.name)
    behavior = presets.behavior(given.name, port_mapping=given.port_mapping)
    if behavior is not None and given.rules:
        text = script(given.name, behavior, inside=given.inside, outside=given.outside, address=given.address)
        print(text, end="")
        return 0
    print(f"{given.name}: {preset.source} (confidence: {preset.confidence})")
    if behavior is None:
        print("a public host without a NAT")
        return 0
    notes = dict.fromkeys(preset.not_claimed, "not claimed by the source")
    if behavior.port_mapping is not PortMapping.NONE:
        notes["port_mapping"] = f"by a helper process: {portmapping.DAEMON}"
    rows = [(name, value, notes.get(name, "")) for name, value in _fields(behavior)]
    print(_table(rows))
    made = rules(behavior, inside=given.inside, outside=given.outside, address=given.address)
    for helper in made.helpers:
        print(f"helper process: {helper.module}: {helper.purpose}")
    return 0


def _behaviors(given: argparse.Namespace) -> dict[str, NatBehavior | None]:
    return {name: presets.behavior(name, given.unsolicited) for name in presets.named(given.nat)}


def _home(nat: NatBehavior | None) -> Home:
    from punchlab.topologies import Home

    return Home(nat=nat or "none")


def _run_check(given: argparse.Namespace) -> int:
    from punchlab.lab.check import check
    from punchlab.lab.cli.checks import CheckProgress

    silent = {name: preset.not_claimed for name, preset in presets.PRESETS.items()}
    with CheckProgress() as progress:
        checks = check.run(
            _behaviors(given),
            _home,
            "a",
            jobs=given.jobs,
            progress=progress.update,
            silent=silent,
            time_scale=given.time_scale,
        )
    if given.json:
        print(json.dumps({name: _plain(checked) for name, checked in checks.items()}))
    else:
        progress.summary(checks)
    return status(checks)


def status(checks: Mapping[str, Check]) -> int:
    """Return the exit status of `nat check`. A refuted claim takes precedence over untested claims."""
    verdicts = {checked.agrees for checked in checks.values()}
    if False in verdicts:
        return 1
    return NOT_TESTED_STATUS if None in verdicts else 0


def _plain(checked: Check) -> dict[str, object]:
    return {
        "agrees": checked.agrees,
        "fields": [{**dataclasses.asdict(row), "agrees": row.agrees} for row in checked.rows],
        "requirements": [
            {
                "rfc": row.requirement.rfc,
                "name": row.requirement.name,
                "level": row.requirement.level,
                "text": row.requirement.text,
                "verdict": row.verdict,
                "note": row.note,
            }
            for row in checked.requirements
        ],
        "probe": checked.found,
    }


def _row(name: str, preset: Preset) -> tuple[str, ...]:
    nat = preset.behavior
    if nat is None:
        words: tuple[str, ...] = ("-", "-", "-", "-")
    else:
        ports = f"{nat.port_allocation}{', overloading' if nat.port_overloading else ''}"
        words = (nat.mapping, nat.filtering, ports, nat.unsolicited)
    return (name, *words, preset.confidence, preset.source)


def _fields(behavior: NatBehavior) -> Iterator[tuple[str, str]]:
    for each in dataclasses.fields(behavior):
        value = getattr(behavior, each.name)
        if isinstance(value, Timeouts):
            for timeout in dataclasses.fields(value):
                yield f"{each.name}.{timeout.name}", str(getattr(value, timeout.name))
        elif isinstance(value, bool):
            yield each.name, "yes" if value else "no"
        elif isinstance(value, tuple):
            yield each.name, "-".join(str(part) for part in value)
        else:
            yield each.name, str(value)


def _fits(table: str) -> bool:
    """Whether a terminal has room for the lines; an output that is no terminal has."""
    columns = shutil.get_terminal_size().columns
    return not sys.stdout.isatty() or max(map(len, table.splitlines())) <= columns


def _paragraphs(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A paragraph a row, for a terminal that is too narrow for the table."""
    columns = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(columns, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    wrapper.break_on_hyphens = False
    paragraphs = []
    for name, *words in rows:
        fields = [f"{field.lower()} {word}" for field, word in zip(head[1:-1], words[:-1], strict=True)]
        paragraphs.append("\n".join([name, wrapper.fill("; ".join(fields)), wrapper.fill(words[-1])]))
    return "\n".join(paragraphs)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
