"""Sysctls of the network namespace that the calling thread is in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def read(path: str) -> str | None:
    """A sysctl's value, without the newline; None if there is none of that name."""
    try:
        return Path("/proc/sys", path).read_text().strip()
    except FileNotFoundError:
        return None


def write(values: Mapping[str, str]) -> None:
    """Set sysctls, given by their paths below /proc/sys. Raises OSError; those of IPv6 may be missing."""
    for path, value in values.items():
        try:
            file = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if path.startswith("net/ipv6"):
                continue  # a kernel without IPv6 is as good
            raise
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
