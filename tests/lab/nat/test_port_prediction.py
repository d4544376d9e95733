"""Sequential ports: what a client measures of its NAT, and how often a window contains the next port."""

from __future__ import annotations

import json
import random
import sys
import time
from math import sqrt

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT as EDGE_PORT
from punchlab.lab.trial.trial import edge_network
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation
from punchlab.punch.nat.port_prediction import probability
from punchlab.topologies import AB

DEPENDENT = (MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT)
SEQUENTIAL = NatBehavior(*DEPENDENT, PortAllocation.SEQUENTIAL)
BACKWARDS = NatBehavior(*DEPENDENT, PortAllocation.SEQUENTIAL, port_delta=-2)
DEVIATIONS = 4
"""A standard normal deviate exceeds this number of standard deviations once in 16,000."""

MEASURE = """
import asyncio, sys
from punchlab.punch.punching.quota import Servers
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.strategy.allocation import measure
print(asyncio.run(measure(EdgeUrl.parse(sys.argv[1]), Servers())).allocation.encode())
"""


@pytest.mark.parametrize(
    ("nat", "background", "found"),
    [
        ("none", 0.0, {"dependent": False}),
        ("port_restricted_cone", 0.0, {"dependent": False}),
        ("symmetric", 0.0, {"dependent": True}),
        (SEQUENTIAL, 0.0, {"dependent": True, "delta": 1}),
        (SEQUENTIAL, 100.0, {"dependent": True, "delta": 1}),
        (BACKWARDS, 0.0, {"dependent": True, "delta": -2}),
    ],
)
def test_a_client_measures_its_nats_port_allocation(
    nat: str | NatBehavior, background: float, found: dict[str, object]
) -> None:
    with Lab(AB(nat_a=nat, nat_b="none"), background=background) as lab:
        edge_network(lab, PUNCH).wait()
        printed = lab["a"].run([sys.executable, "-c", MEASURE, f"ws://{lab.anycast}:{EDGE_PORT}"]).stdout
    assert json.loads(printed) == found


def test_a_window_contains_the_next_port_as_often_as_the_model_says_under_background_traffic() -> None:
    rate, window, measurements, longest_s = 100.0, 2, 400, 0.04
    hits, expected, variance = 0, 0.0, 0.0
    pauses = random.Random(5128)
    with (
        Lab(AB(nat_a=SEQUENTIAL, nat_b="none", delay="0ms", edge_delay="0ms"), background=rate) as lab,
        lab["b"].socket() as server,
    ):
        server.bind((lab["b"].address, 5000))
        server.listen()

        def port() -> int:
            with lab["a"].socket() as dialler:
                dialler.connect((lab["b"].address, 5000))
                accepted, seen = server.accept()
                accepted.close()
            return int(seen[1])

        for _measurement in range(measurements):
            earlier = time.monotonic()
            before = port()
            time.sleep(pauses.uniform(0, longest_s))  # other hosts create mappings meanwhile: this is measured
            later = time.monotonic()
            after = port()
            chance = probability(window, rate, later - earlier)
            hits += 1 <= after - before <= window
            expected += chance
            variance += chance * (1 - chance)
    assert abs(hits - expected) <= DEVIATIONS * sqrt(variance), (hits, expected, variance)
    assert 0.2 < expected / measurements < 0.9  # neither certain nor impossible, so that the model is tested
