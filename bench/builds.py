"""Measure the time to build and tear down labs, in comparison with Mininet and a shell script, interleaved."""

from __future__ import annotations

import gc
import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mininet.topo import Topo

from bench.peers import BUILDERS
from punchlab import Lab
from punchlab.topologies import AB
from punchlab.topologies.many_homes import ManyHomes

NAT = "port_restricted_cone"
_LABS_FOR_MEMORY = 40


def ab() -> AB:
    """Return the compared topology: two homes, no delays."""
    return AB(nat_a=NAT, nat_b=NAT, delay="0ms", edge_delay="0ms")


def compare(topology: Callable[[], Topo], rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Build and tear down with each builder in turn; return all times in seconds, the medians, and their ratios."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in BUILDERS}
    for number in range(rounds + 1):
        for name, build in BUILDERS.items():
            gc.collect()
            taken = build(topology())
            if number or rounds == 1:  # the first round warms up
                times[name].append(taken)
    medians = {name: statistics.median(map(sum, taken)) for name, taken in times.items()}
    ratios = {name: median / medians["punchlab"] for name, median in medians.items() if name != "punchlab"}
    others = (f"{name} {medians[name] * 1000:.1f} ms ({ratio:.1f} x)" for name, ratio in ratios.items())
    tell(f"punchlab {medians['punchlab'] * 1000:.1f} ms, {', '.join(others)}")
    return {
        name: {"build_s": [each[0] for each in taken], "tear_down_s": [each[1] for each in taken], "median_s": median}
        for (name, taken), median in zip(times.items(), medians.values(), strict=True)
    } | {"ratios": ratios}


def towns(sizes: Sequence[int], rounds: Callable[[int], int], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the same for labs with each number of homes; `per_home_s` is punchlab's median per home."""
    found: dict[str, Any] = {}
    for homes in sizes:
        tell(f"{homes} homes ({2 * homes + 2} namespaces):")
        found[str(homes)] = compare(partial(ManyHomes, homes=homes), rounds(homes), tell)
        found[str(homes)]["per_home_s"] = found[str(homes)]["punchlab"]["median_s"] / homes
    first, last = (found[str(size)]["per_home_s"] for size in (sizes[0], sizes[-1]))
    tell(
        f"per home: {last * 1000:.2f} ms with {sizes[-1]}, {first * 1000:.2f} ms with {sizes[0]}; {last / first:.2f} x"
    )
    return found


def memory(tell: Callable[[str], None]) -> dict[str, float]:
    """Return the memory that a lab uses in the kernel and in this process, in MB."""
    with Lab(ab()):
        pass
    before = _kernel_mb(), _resident_mb()
    labs = [Lab(ab()) for _ in range(_LABS_FOR_MEMORY)]
    for lab in labs:
        lab.__enter__()
    after = _kernel_mb(), _resident_mb()
    for lab in labs:
        lab.close()
    found = {
        name: (late - early) / _LABS_FOR_MEMORY
        for name, early, late in zip(("kernel_mb", "process_mb"), before, after, strict=True)
    }
    tell(f"an AB lab uses {found['kernel_mb']:.1f} MB in the kernel and {found['process_mb']:.2f} MB in this process")
    return found


def _kernel_mb() -> float:
    """Return the memory of the kernel areas that hold namespaces, links and rules, of the whole machine."""
    fields: Mapping[str, str] = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("Slab", "Percpu", "VmallocUsed")) / 1024


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
