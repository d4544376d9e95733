"""How many connections fit into the memory that an edge may use.

Each connection is bounded (see `punch.edge.connection`), so the number of connections bounds the memory of the edge.
The sizes here are not typical but worst cases: a client that sends half a TLS record and half a frame, and reads
nothing of what is buffered for it in the process and in the kernel. Linux charges kernel buffers to the control group,
too.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MIB = 1024 * 1024
BASE_BYTES = 128 * MIB
"""The process itself, its table of sources, and the stored messages of its bus."""
RELAY_BYTES = 160 * MIB
"""Additional memory for relayed pairs."""
CONNECTION_BYTES = 196 * 1024
TLS_CONNECTION_BYTES = 232 * 1024
MOST = 10_000  # connections, even if more would fit
_SPARE_DESCRIPTORS = 200  # or a quarter of all if that is less: for listeners, links, STUN and the log


def usable_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may use: the limit of its control group, or three quarters of the
    machine's."""
    return min([*_limits(proc / "self" / "cgroup", cgroups), _physical(proc / "meminfo") * 3 // 4])


def most_connections(usable: int, *, tls: bool, relays: bool) -> int:
    """Return how many connections fit into `usable` bytes."""
    return max(0, (usable - bound_bytes(0, tls=tls, relays=relays)) // _each(tls=tls))


def bound_bytes(connections: int, *, tls: bool, relays: bool) -> int:
    """Return how many bytes an edge with so many connections needs at most."""
    base = BASE_BYTES + (RELAY_BYTES if relays else 0)
    return base + connections * _each(tls=tls)


def descriptors() -> int:
    """Return how many connections this process may open within its limit of descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if hard == resource.RLIM_INFINITY else max(1, hard - min(_SPARE_DESCRIPTORS, hard // 4))


def _each(*, tls: bool) -> int:
    return TLS_CONNECTION_BYTES if tls else CONNECTION_BYTES


def _limits(membership: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups (version 1 and 2) and of all their parents."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path)
        for each in (group, *group.parents):
            below = str(each).lstrip("/")
            if controllers == "":
                files = [cgroups / below / name for name in ("memory.max", "memory.high")]
            elif "memory" in controllers.split(","):
                files = [cgroups / "memory" / below / "memory.limit_in_bytes"]
            else:
                files = []
            yield from (found for found in map(_number, files) if found is not None)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # missing, or "max"
        return None


def _physical(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{meminfo}: no MemTotal")
