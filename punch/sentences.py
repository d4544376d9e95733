"""The sentences for the events of `punch`. Texts in the fields are already printable (see `punch.events`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from punchlab.punch.events import Sentence
from punchlab.punch.text import printable

_LONGEST_NAME = 120  # characters

SHOWN = 10
"""Maximum number of lines for one event that may have thousands of entries."""


def human_size(count: int) -> str:
    """Return a size such as `12.3 MB` (powers of 1000)."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def offer_text(fields: Mapping[str, Any]) -> str:
    """Return the offer as text (fields of `punch.transfer.summary`). Names come last, so that they cannot imitate other
    fields."""
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
    """Return the name, or if it is too long its beginning and its end, which identify a file."""
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
        return None  # the file is complete; a directory may have thousands of those
    return f"{fields['name']}: resuming after {human_size(fields['bytes'])}"


CLIENT = cast(
    "dict[str, Sentence]",
    {
        "registered": _registered,
        "edge_lost": lambda fields: f"{fields['reason'].capitalize()}; connecting to another edge.",
        "code": lambda fields: f"Code: {fields['code']}\nOn the other computer: punch receive {fields['code']}",
        "peer_known": _peer_known,
        "candidate_refused": lambda fields: f"Not connecting to {fields['address']} ({fields['reason']})",
        "strategy": lambda fields: f"Strategy {fields['name']}: {fields['why']}" if "name" in fields else None,
        "relaying": lambda fields: f"No direct tunnel ({fields['reason']}); relayed by {fields['relay']}",
        "agreed": lambda fields: (
            None if fields.get("relay") else f"Direct tunnel {fields['local']} - {fields['remote']}"
        ),
        "nonce_echoed": lambda fields: f"Round trip {fields['round_trip_s'] * 1000:.1f} ms",
        "broken": lambda fields: (
            f"The tunnel broke ({fields['reason']}); trying to resume for {fields['resume_for_s']:g} s."
        ),
        "resumed": _resumed,
        "offered": lambda fields: None if fields["asked"] else offer_text(fields),
        "asked": lambda _fields: "Waiting for the receiver to accept.",
        "skipped": _skipped,
        "unconfirmed": lambda fields: (
            f"All data is stored; waiting up to {fields['wait_s']:g} s to confirm it to the sender."
        ),
        "forwarding": lambda fields: f"Forwarding {fields['listen']} to the other computer",
        "done": _done,
    },
)


def client(other_side: str) -> dict[str, Sentence]:
    """Return the sentences of a command whose counterpart on the other computer is `punch {other_side}`."""
    text = f"On the other computer: punch {other_side}"
    return {**CLIENT, "code": lambda fields: f"Code: {fields['code']}\n{text.format(code=fields['code'])}"}


EDGE = cast(
    "dict[str, Sentence]",
    {
        "listening": lambda fields: (
            f"Edge {fields['name']} listens at {', '.join([fields['address'], *fields.get('also', ())])}"
        ),
        "joined": lambda fields: f"joined {fields['peer']}",
        "left": lambda fields: f"left {fields['peer']}",
        "not_joined": lambda fields: f"cannot join {fields['edge']}: {fields['reason']}",
        "deaf": lambda fields: f"{fields['peer']} does not answer pings",
        "bus_trouble": lambda fields: f"bus error: {fields['reason']}",
        "client": lambda fields: f"{fields['session']}: {fields['role']} at {fields['public']}",
        "client_gone": lambda fields: f"{fields['session']}: {fields['role']} left ({fields['reason']})",
        "paired": lambda fields: f"{fields['session']}: paired, {fields['via']}",
        "overloaded": lambda fields: f"cannot accept connections: {fields['reason']}",
        "limited": lambda fields: f"refused {fields['public']}: {fields['reason']}",
        "candidates_withheld": lambda fields: f"{fields['public']} registered addresses that its peer may not get",
        "draining": lambda fields: f"shutting down; {fields['clients']} clients are waiting",
        "reloaded": lambda _fields: "certificate reloaded",
        "reload_failed": lambda fields: f"certificate not reloaded: {fields['reason']}",
        "rejected": lambda fields: f"rejected {fields['public']}: {fields['reason']}",
    },
)
