"""The probe, without knowledge of the rules, detects every combination of behaviors."""

from __future__ import annotations

import itertools

from punchlab import Lab
from punchlab.lab.check import check
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from tests.lab.nat.street import Street, probe_all

ALLOCATIONS = (PortAllocation.PRESERVING, PortAllocation.RANDOM, PortAllocation.SEQUENTIAL)
ANSWERS = (Unsolicited.DROP, Unsolicited.RESET)
GRID = [
    NatBehavior(mapping, filtering, allocation, answer, port_range=(20000, 30000))
    for mapping, filtering, allocation, answer in itertools.product(
        MappingBehavior, FilteringBehavior, ALLOCATIONS, ANSWERS
    )
]


def test_all_combinations_are_detected_over_both_transports() -> None:
    hosts = [f"h{number}" for number in range(len(GRID))]
    with Lab(Street(nats=GRID)) as lab:
        found = probe_all(lab, hosts)
    rows = {host: list(check.compare(nat, found[host])) for host, nat in zip(hosts, GRID, strict=True)}
    assert len(rows) == 54
    assert {host: [row for row in seen if not row.agrees] for host, seen in rows.items()} == {
        host: [] for host in hosts
    }
    fields = {(row.transport, row.field) for row in rows[hosts[-1]]}
    assert fields >= set(
        itertools.product(("udp", "tcp"), ("mapping", "filtering", "port_allocation", "remote_endpoint"))
    )
    assert ("tcp", "unsolicited") in fields
