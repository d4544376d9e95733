"""The page of the NAT presets: what each one does, its source, and which fields the source does not claim."""

from __future__ import annotations

from dataclasses import MISSING, fields

from docs.generate import names
from docs.generate.markdown import cell, code, table

_ALWAYS = ("mapping", "filtering", "port_allocation", "unsolicited")


def page() -> str:
    """The page."""
    summary = table(
        ("preset", "mapping", "filtering", "port allocation", "unsolicited SYN", "confidence"),
        [_summary(name, preset) for name, preset in names.PRESETS.items()],
    )
    parts = [
        "# NAT presets",
        (
            "A preset is a name for a [NAT behavior](../how-to/nat.md). The list is the output of `punchlab nat list`; "
            "`punchlab nat show NAME` prints one preset."
        ),
        (
            f"The group `classics` contains {_listed(names.CLASSICS)}. The group `firewalls` contains "
            f"{_listed(names.FIREWALLS)}. The group `all` contains every preset."
        ),
        (
            "*Confidence* says how well the source supports the behavior. `definition` means that the name is "
            "defined as "
            "this behavior."
        ),
        summary,
        *(_section(name, preset) for name, preset in names.PRESETS.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _listed(members: tuple[str, ...]) -> str:
    return ", ".join(map(code, members))


def _summary(name: str, preset: names.Preset) -> tuple[str, ...]:
    link = f"[`{name}`](#{name})"
    if preset.behavior is None:
        return (link, "no NAT", "", "", "", str(preset.confidence))
    return (link, *(str(getattr(preset.behavior, field)) for field in _ALWAYS), str(preset.confidence))


def _section(name: str, preset: names.Preset) -> str:
    parts = [f"## `{name}` {{ #{name} }}", f"Source: {cell(preset.source)}. Confidence: {preset.confidence}."]
    if preset.behavior is None:
        parts.append("A host with a public address and without a NAT.")
    else:
        rows = [
            (code(field), code(value), "no" if field in preset.not_claimed else "yes")
            for field, value in _values(preset.behavior)
        ]
        parts.append(table(("field", "value", "claimed by the source"), rows))
    return "\n\n".join(parts)


def _values(behavior: names.NatBehavior) -> list[tuple[str, str]]:
    """The fields that every preset shows, and the others where they differ from the default."""
    rows = []
    for field in fields(behavior):
        value = getattr(behavior, field.name)
        if field.name == "timeouts":
            rows += [(f"timeouts.{each.name}", str(getattr(value, each.name))) for each in fields(value)]
        elif field.name in _ALWAYS or field.default is MISSING or value != field.default:
            rows.append((field.name, "-".join(map(str, value)) if isinstance(value, tuple) else str(value)))
    return rows
