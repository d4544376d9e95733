"""The events in words, for people. The fields come from `punch.events`, with every text in them printable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from punchlab.punch.events import Sentence
from punchlab.punch.text import printable

_LONGEST_NAME = 120  # characters

SHOWN = 10
"""Lines for one event at most, where there may be thousands."""


def human_size(count: int) -> str:
    """`12.3 MB` (powers of 1000)."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def offer_text(fields: Mapping[str, Any]) -> str:
    """What is offered, as `punch.transfer.summary` has it. Names come last, so that they can imitate nothing else."""
    size = "an unknown number of bytes" if fields["bytes"] is None else human_size(fields["bytes"])
    counted = [_counted(fields["files"], "file"), _counted(fields["directories"], "directory", "directories"), size]
    counted += [f"{fields[kind]} {kind}" for kind in ("sensitive", "hidden", "executable") if fields[kind]]
    lines = [f"Offered: {', '.join(counted)}"]
    rows = [(", ".join(each["marks"]), _held(each), each) for each in fields["entries"]]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for marks, held, each in rows:
        warning = "!" if {"hidden", "sensitive"} & set(each["marks"]) else " "
        name = printable(_middle_cut(each["name"]))
        lines.append(f"{warning} {marks:<{widths[0]}}  {held:>{widths[1]}}  {name}")
    lines += [f"! and {count} more {kind}" for kind, count in fields["unlisted"].items() if count and kind != "other"]
    if fields["unlisted"]["other"]:
        lines.append(f"  and {fields['unlisted']['other']} more")
    return "\n".join(lines)


def _held(entry: Mapping[str, Any]) -> str:
    size = "?" if entry["size"] is None else human_size(entry["size"])
    return f"{_counted(entry['files'], 'file')}, {size}" if entry["name"].endswith("/") else size


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _middle_cut(name: str) -> str:
    """The name, or its beginning and its end, with which it says what it is."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]} ... {name[-_LONGEST_NAME // 2 :]}"


def _registered(fields: Mapping[str, Any]) -> str:
    seen = " and ".join(fields[each] for each in ("public", "public6") if each in fields)
    return f"At edge {fields['edge']} as {seen}; waiting for the peer."


def _peer_known(fields: Mapping[str, Any]) -> str:
    return "Punching to " + ", ".join(f"{each['address']} ({each['kind']})" for each in fields["candidates"])


def _done(fields: Mapping[str, Any]) -> str:
    lines: list[str] = []
    trees: dict[str, list[int]] = {}
    for each in fields["files"]:
        directory, slash, _ = each["name"].partition("/")
        if slash:
            trees.setdefault(directory, []).append(each["size"])
        else:
            lines.append(f"{each['name']} ({human_size(each['size'])}), SHA-256 {each['sha256']}")
    for name, sizes in trees.items():
        lines.append(f"{name}/ ({len(sizes)} file{'s' * (len(sizes) != 1)}, {human_size(sum(sizes))})")
    return "\n".join([*lines, f"Done in {fields['seconds']:.1f} s."])


def _skipped(fields: Mapping[str, Any]) -> str:
    lines = [f"Not sent: {each['name']} ({each['reason']})" for each in fields["entries"][:SHOWN]]
    more = len(fields["entries"]) - SHOWN
    return "\n".join([*lines, f"Not sent: {more} more"] if more > 0 else lines)


def _resumed(fields: Mapping[str, Any]) -> str | None:
    if fields["bytes"] == fields["size"]:
        return None  # it is there already; a directory may hold thousands of such
    return f"{fields['name']} goes on after {human_size(fields['bytes'])}"


CLIENT = cast(
    "dict[str, Sentence]",
    {
        "registered": _registered,
        "edge_lost": lambda fields: f"{fields['reason'].capitalize()}; trying to find another.",
        "code": lambda fields: f"Code: {fields['code']}\nOn the other computer: punch receive {fields['code']}",
        "peer_known": _peer_known,
        "candidate_refused": lambda fields: f"Not dialled: {fields['address']} ({fields['reason']})",
        "strategy": lambda fields: f"Strategy {fields['name']}: {fields['why']}" if "name" in fields else None,
        "relaying": lambda fields: f"No direct tunnel ({fields['reason']}); relayed by {fields['relay']}",
        "agreed": lambda fields: (
            None if fields.get("relay") else f"Direct tunnel {fields['local']} - {fields['remote']}"
        ),
        "nonce_echoed": lambda fields: f"Round trip {fields['round_trip_s'] * 1000:.1f} ms",
        "broken": lambda fields: (
            f"The tunnel broke ({fields['reason']}); trying for {fields['resume_for_s']:g} s to go on."
        ),
        "resumed": _resumed,
        "offered": lambda fields: None if fields["asked"] else offer_text(fields),
        "asked": lambda _fields: "Waiting for the receiver to accept.",
        "skipped": _skipped,
        "untold": lambda fields: (
            f"Everything is stored; waiting up to {fields['tell_for_s']:g} s in case the sender has not heard."
        ),
        "forwarding": lambda fields: f"Forwarding {fields['listen']} to the other side",
        "done": _done,
    },
)


def client(other_side: str) -> dict[str, Sentence]:
    """The sentences of a command whose other side is `other_side`."""
    told = f"On the other computer: punch {other_side}"
    return {**CLIENT, "code": lambda fields: f"Code: {fields['code']}\n{told.format(code=fields['code'])}"}


EDGE = cast(
    "dict[str, Sentence]",
    {
        "listening": lambda fields: (
            f"Edge {fields['name']} listens at {', '.join([fields['address'], *fields.get('also', ())])}"
        ),
        "joined": lambda fields: f"joined {fields['peer']}",
        "left": lambda fields: f"left {fields['peer']}",
        "not_joined": lambda fields: f"cannot join {fields['edge']}: {fields['reason']}",
        "deaf": lambda fields: f"{fields['peer']} does not answer any more",
        "bus_trouble": lambda fields: f"the bus: {fields['reason']}",
        "client": lambda fields: f"{fields['session']}: {fields['role']} at {fields['public']}",
        "client_gone": lambda fields: f"{fields['session']}: {fields['role']} gone ({fields['reason']})",
        "paired": lambda fields: f"{fields['session']}: paired, {fields['via']}",
        "overloaded": lambda fields: f"nobody gets in: {fields['reason']}",
        "limited": lambda fields: f"refused {fields['public']}: {fields['reason']}",
        "candidates_withheld": lambda fields: f"{fields['public']} named addresses that are not its own",
        "draining": lambda fields: f"stopping; {fields['clients']} clients wait",
        "reloaded": lambda _fields: "read the certificate again",
        "reload_failed": lambda fields: f"kept the old certificate: {fields['reason']}",
        "rejected": lambda fields: f"rejected {fields['public']}: {fields['reason']}",
    },
)
