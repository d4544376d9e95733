"""Measure the throughput of a transfer over a punched connection, in comparison with iperf3 on the same path.

`a` is behind a NAT, `b` is public so that iperf3 can connect to it; nothing is captured. Both send from `a` to `b`. The
figures are bits of payload per second, from the first to the last bit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT, EdgeNetwork
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.topologies import AB

SHAPED_MBIT = 500.0
ROUNDS = 3
_FILE_BYTES = 250_000_000
_IPERF_S = 4
_PATIENCE_S = 120.0
_CODE = "k7x2mq-amber-falcon-tulip"


def compare(tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the Mbit/s of both in each round, shaped and unshaped, and the ratio of the medians."""
    return {
        "shaped": _compare(SHAPED_MBIT, tell),
        "unshaped": _compare(None, tell),
    }


def _compare(bw: float | None, tell: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, list[float]] = {"punch": [], "iperf3": []}
    topology = AB(nat_a="port_restricted_cone", nat_b="none", delay="0ms", edge_delay="0ms", bw=bw)
    with Lab(topology) as lab, tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        edges = EdgeNetwork(list(lab.edges), PUNCH)
        try:
            edges.wait()
            file = Path(folder) / "file"
            with file.open("wb") as stream:
                stream.truncate(_FILE_BYTES)
            for _ in range(ROUNDS):
                found["punch"].append(_punch(lab, file))
                found["iperf3"].append(_iperf3(lab))
        finally:
            edges.close()
    ratio = statistics.median(found["punch"]) / statistics.median(found["iperf3"])
    shown = "unshaped" if bw is None else f"{bw:g} Mbit/s"
    text = ", ".join(f"{name} {statistics.median(each):.0f}" for name, each in found.items())
    tell(f"one transfer, {shown}: {text} Mbit/s (medians of {ROUNDS}), ratio {ratio:.2f}")
    return {**found, "ratio": ratio}


def _punch(lab: Lab, file: Path) -> float:
    """Return the Mbit/s of one transfer, from the offer until the receiver has stored the file."""
    with tempfile.TemporaryDirectory(dir=file.parent) as out:
        common = ("--code", _CODE, "--edge", f"ws://{lab.anycast}:{PORT}", "--json")
        sender = EventProcess(lab["a"], [sys.executable, "-m", "punchlab.punch", "send", str(file), *common])
        receiver = EventProcess(
            lab["b"], [sys.executable, "-m", "punchlab.punch", "receive", _CODE, "--yes", "--dir", out, *common[2:]]
        )
        try:
            wait_for([sender, receiver], lambda: False, _PATIENCE_S)  # until both have ended
            done = sender.first("done")
            if done is None:
                raise RuntimeError(f"no transfer: {sender.events} {receiver.errors}")
            return _FILE_BYTES * 8 / float(done["seconds"]) / 1e6
        finally:
            sender.end()
            receiver.end()


def _iperf3(lab: Lab) -> float:
    """Return the Mbit/s that the receiver of iperf3 reports. Raises `RuntimeError`."""
    server = lab["b"].popen(["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + _PATIENCE_S
    client = ["iperf3", "--client", lab["b"].address, "--time", str(_IPERF_S), "--json"]
    while (done := lab["a"].run(client, check=False)).returncode and time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"iperf3: {done.stdout}")
        time.sleep(0.05)  # until it listens
    if done.returncode:
        server.kill()
        raise RuntimeError(f"iperf3: {' '.join(done.stdout.split())[-200:]}")
    server.wait(_PATIENCE_S)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6
