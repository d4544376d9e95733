"""The identity of the code: a trial runs only on workers with the same code as the campaign."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_PACKAGES = ("lab", "punch", "topologies")
_ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def resource() -> str:
    """Return the name of the Dask resource of workers with this code (one unit per trial at a time)."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return f"punchlab-{digest.hexdigest()[:16]}"
