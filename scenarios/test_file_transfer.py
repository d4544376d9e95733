"""A file passes through the tunnel, and almost nothing of it through the edge."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT, EdgeNetwork
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.topologies import AB
from scenarios.conftest import Punch

MEGABYTE = 1_000_000
CODE = "k7x2mq-amber-falcon-tulip"
PATIENCE_S = 60.0


@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_a_megabyte_arrives_unchanged(topology: str, punch: Punch) -> None:
    trial = punch(topology, "port_restricted_cone", "full_cone", file_size=MEGABYTE)
    assert trial.direct, trial
    (sent,), (received,) = (side.last("done")["files"] for side in trial.sides)  # type: ignore[index]  # it is direct
    assert sent["sha256"] == received["sha256"]
    assert received["size"] == MEGABYTE


def test_a_simultaneous_open_is_as_fast_as_an_accepted_connection(punch: Punch) -> None:
    crossed = punch("cd", "port_restricted_cone", "port_restricted_cone", file_size=5 * MEGABYTE)
    accepted = punch("cd", "symmetric", "none", file_size=5 * MEGABYTE)
    assert crossed.exchange.simultaneous_open, crossed
    assert not accepted.exchange.simultaneous_open, accepted
    # With the kernel's wrong estimate of the round-trip time, this is 9.
    assert crossed.timings_s["transferred"] / accepted.timings_s["transferred"] < 3


def test_a_hundred_megabytes_bypass_the_edge() -> None:
    with Lab(AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab:
        trial = lab.punch("a", "b", file_size=100 * MEGABYTE)
        assert trial.direct, trial
        shown = lab["edge1"].run(["ip", "-json", "-statistics", "link", "show", "dev", "edge1-eth0"])
    (counters,) = (link["stats64"] for link in json.loads(shown.stdout))
    assert counters["rx"]["bytes"] + counters["tx"]["bytes"] < 100_000


def _tree(directory: Path) -> dict[str, tuple[bytes | None, bool]]:
    """Return path -> (content, executable) of everything in the directory. The content of a directory is None."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), os.access(path, os.X_OK))
        if path.is_file()
        else (None, True)
        for path in directory.rglob("*")
    }


def test_a_directory_arrives_although_its_receiver_is_killed_and_a_nat_reboots(tmp_path: Path) -> None:
    project, inbox = tmp_path / "project", tmp_path / "inbox"
    for name in ("src/deep/er", "src/empty", "bin"):
        (project / name).mkdir(parents=True)
    for number in range(100):
        (project / "src" / f"{number}.txt").write_bytes(os.urandom(1000))
    for name in ("a.bin", "src/deep/er/b.bin", "z.bin"):
        (project / name).write_bytes(os.urandom(5 * MEGABYTE))
    (project / "bin" / "run").write_bytes(b"#!/bin/sh\n")
    (project / "bin" / "run").chmod(0o755)
    inbox.mkdir()

    with Lab(AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone", bw=20)) as lab:
        edges = EdgeNetwork(list(lab.edges), PUNCH)
        sender = receiver = None
        try:
            edges.wait()
            punch, common = [sys.executable, "-m", "punchlab.punch"], ["--edge", f"ws://{lab.anycast}:{PORT}", "--json"]
            sender = EventProcess(lab["a"], [*punch, "send", str(project), "--code", CODE, *common])
            receive = [*punch, "receive", CODE, "--yes", "--dir", str(inbox), *common]
            receiver = EventProcess(lab["b"], receive)
            # In the middle of the first of the three large files.
            assert wait_for([sender, receiver], lambda: _arrived(inbox) > 2 * MEGABYTE, PATIENCE_S), sender.events
            receiver.process.send_signal(signal.SIGKILL)
            receiver.end()
            receiver = EventProcess(lab["b"], receive)
            both = [sender, receiver]
            # In the middle of the second.
            assert wait_for(both, lambda: _arrived(inbox) > 7 * MEGABYTE, PATIENCE_S), sender.events
            assert all(path.name.startswith(".punch-") for path in inbox.iterdir())
            lab.nat("a").reboot()
            assert wait_for(both, lambda: not (sender.open or receiver.open), PATIENCE_S), sender.events
            assert sender.returncode == receiver.returncode == 0, (sender.errors, receiver.errors)
        finally:
            for process in (sender, receiver):
                if process is not None:
                    process.end()
            edges.close()
    assert _tree(inbox / "project") == _tree(project)
    assert [path.name for path in inbox.iterdir()] == ["project"]
    resumed = [(event["name"], event["bytes"]) for event in receiver.events if event["event"] == "resumed"]
    (killed, rebooted), (deep,) = (
        [count for name, count in resumed if name == f"project/{which}"] for which in ("a.bin", "src/deep/er/b.bin")
    )
    assert 2 * MEGABYTE <= killed < rebooted == 5 * MEGABYTE
    assert 0 < deep < 5 * MEGABYTE
    assert "project/z.bin" not in dict(resumed)


def _arrived(directory: Path) -> int:
    """Return the number of bytes in all files of a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
