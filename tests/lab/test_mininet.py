"""The topologies in Mininet's own engine."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.commands import punchlab, run

PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("topology", "host", "address"),
    [
        ("same_nat", "b", "11.0.0.1"),
        ("carrier", "b", "11.0.0.1"),
        ("firewalls", "a", "11.0.0.1"),
        ("firewalls", "b", "2a11::11.16.0.2"),
    ],
)
def test_a_host_behind_its_nats_or_firewall_reaches_the_edge(topology: str, host: str, address: str) -> None:
    words = ["mn", "--custom", "topologies/custom.py", "--topo", topology, "--switch", "lxbr", "--controller", "none"]
    command = f"echo {host} ping -c 1 -W 5 {address} | {shlex.join(punchlab('sandbox', '--unconfined', *words))}"
    done = run(["sh", "-c", command], cwd=PROJECT)
    assert "1 received" in done.stdout + done.stderr, done  # Mininet writes to the latter
