"""The versions of the software on which a result depends."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata


@functools.cache
def versions() -> Mapping[str, str | None]:
    """Return the versions of punchlab, the kernel, iptables (with its variant), nft and Python, None for missing
    programs.
    """
    return {
        "punchlab": metadata.version("punchlab"),
        "kernel": platform.release(),
        "iptables": _first_line("iptables", "--version"),
        "nft": _first_line("nft", "--version"),
        "python": platform.python_version(),
    }


def _first_line(*command: str) -> str | None:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    words = output.partition("\n")[0].split(" ", 1)
    return words[-1].lstrip("v") or None
