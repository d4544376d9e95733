"""The events in words, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from punch.events import Sentence


def human_size(count: int) -> str:
    """`12.3 MB` (powers of 1000)."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _peer_known(fields: Mapping[str, Any]) -> str:
    return "Punching to " + ", ".join(f"{each['address']} ({each['kind']})" for each in fields["candidates"])


def _done(fields: Mapping[str, Any]) -> str:
    files = [f"{each['name']} ({human_size(each['size'])}), SHA-256 {each['sha256']}" for each in fields["files"]]
    return "\n".join([*files, f"Done in {fields['seconds']:.1f} s."])


CLIENT = cast(
    "dict[str, Sentence]",
    {
        "registered": lambda fields: f"At edge {fields['edge']} as {fields['public']}; waiting for the peer.",
        "code": lambda fields: f"Code: {fields['code']}\nOn the other computer: punch receive {fields['code']}",
        "peer_known": _peer_known,
        "agreed": lambda fields: f"Direct tunnel {fields['local']} - {fields['remote']}",
        "nonce_echoed": lambda fields: f"Round trip {fields['round_trip_s'] * 1000:.1f} ms",
        "done": _done,
    },
)

EDGE = cast(
    "dict[str, Sentence]",
    {
        "listening": lambda fields: f"Edge {fields['name']} listens at {fields['address']}",
        "joined": lambda fields: f"joined {fields['peer']}",
        "left": lambda fields: f"left {fields['peer']}",
        "client": lambda fields: f"{fields['session']}: {fields['role']} at {fields['public']}",
        "client_gone": lambda fields: f"{fields['session']}: {fields['role']} gone ({fields['reason']})",
        "paired": lambda fields: f"{fields['session']}: paired, {fields['via']}",
        "overloaded": lambda fields: f"nobody gets in: {fields['reason']}",
        "rejected": lambda fields: f"rejected {fields['public']}: {fields['reason']}",
    },
)
