"""Sysctls of the calling thread's network namespace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def read(path: str) -> str | None:
    """Return the value of a sysctl without the newline, or None if it does not exist."""
    try:
        return Path("/proc/sys", path).read_text().strip()
    except FileNotFoundError:
        return None


def write(values: Mapping[str, str]) -> None:
    """Set sysctls, given by their paths below /proc/sys. Raises OSError, except for missing IPv6 sysctls."""
    for path, value in values.items():
        try:
            file = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if path.startswith("net/ipv6"):
                continue  # the kernel has no IPv6
            raise
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
