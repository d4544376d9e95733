"""The emulated Internet: nodes, links, NATs, captures and trials inside one private sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.errors import ClientError, InputError, LabError, MissingCapabilityError, PunchlabError

if TYPE_CHECKING:
    from lab.lab import Lab

__all__ = ["ClientError", "InputError", "Lab", "LabError", "MissingCapabilityError", "PunchlabError"]


def __getattr__(name: str) -> Any:
    # Late, so that `punchlab --help` does not wait for netlink.
    if name == "Lab":
        from lab.lab import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
