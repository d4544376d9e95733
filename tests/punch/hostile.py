"""Attackers of one edge from thousands of loopback addresses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import Attackers


def _addresses() -> Iterator[str]:
    """Return addresses that this process has not used before, and no honest client uses."""
    for number in itertools.count(1):
        yield f"127.{64 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


_unused = _addresses()


def attackers(edge: Endpoint, *, tls: bool = False) -> Attackers:
    """Return attackers of this edge."""
    return Attackers(edge, _unused, tls=tls)
