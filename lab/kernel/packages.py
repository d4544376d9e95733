"""The Python packages of the extra `lab`."""

from __future__ import annotations

from importlib.util import find_spec

from punchlab.lab.errors import MissingCapabilityError

_NEEDED = ("jinja2", "matplotlib", "mininet", "msgspec", "pyroute2", "pytest", "scapy")


def require() -> None:
    """Raise `MissingCapabilityError` if a package of the extra is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingCapabilityError(f"missing Python packages: {', '.join(missing)}; run: pip install 'punchlab[lab]'")
