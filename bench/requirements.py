"""Check the requirements of all parts before the benchmark starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping

from punchlab.lab.errors import MissingCapabilityError

_PACKAGES = {
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "nft": "nftables",
    "sysctl": "procps",
    "mnexec": "mininet",
    "brctl": "bridge-utils",
    "ifconfig": "net-tools",
    "taskset": "util-linux",
    "unshare": "util-linux",
    "iperf3": "iperf3",
}
"""Program -> the Debian package that contains it."""

_LAB = ("ip", "iptables-restore", "nft")
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "start": ("unshare",),
    "builds": ("sysctl", "mnexec", "brctl", "ifconfig"),
    "machines": ("taskset",),
    "throughput": ("iperf3",),
}
"""Part -> its requirements in addition to those of a lab."""

_MODULES: Mapping[str, tuple[str, ...]] = {"machines": ("distributed",)}
_ADMINISTRATION = "/usr/local/sbin:/usr/sbin:/sbin"


def check(parts: Iterable[str]) -> None:
    """Raise `MissingCapabilityError` with all missing programs and modules and the commands that install them."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_ADMINISTRATION}"
    missing: dict[str, list[str]] = {}
    modules = set()
    for part in parts:
        for program in (*_LAB, *_PROGRAMS.get(part, ())):
            if shutil.which(program, path=path) is None:
                missing.setdefault(program, []).append(part)
        for module in _MODULES.get(part, ()):
            if importlib.util.find_spec(module) is None:
                missing.setdefault(module, []).append(part)
                modules.add(module)
    if not missing:
        return
    named = ", ".join(f"{name} (for {', '.join(wanting)})" for name, wanting in missing.items())
    packages = dict.fromkeys(_PACKAGES[name] for name in missing if name not in modules)
    remedies = [f"run as root: apt-get install {' '.join(packages)}"] if packages else []
    remedies += [f"run: .venv/bin/pip install {' '.join(sorted(modules))}"] if modules else []
    raise MissingCapabilityError(f"missing: {named}; {'; '.join(remedies)}; or choose other parts with --only")
