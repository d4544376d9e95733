"""A client selects the nearest edge of a list, as measured through its NAT and over the long links."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from punchlab import Lab
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.topologies import CD

PUNCH = (sys.executable, "-m", "punchlab.punch")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(CD(delay="50ms")) as lab:
        edges = [
            EventProcess(lab[name], [*PUNCH, "edge", "--listen", "0.0.0.0:7000", "--name", name, "--json"])
            for name in ("edge1", "edge2")
        ]
        assert wait_for(edges, lambda: all(edge.first("listening") for edge in edges), 20)
        yield lab
        for edge in edges:
            edge.end()


@pytest.mark.parametrize("order", [("edge1", "edge2"), ("edge2", "edge1")])
@pytest.mark.parametrize(("host", "near", "far"), [("c", "edge1", "edge2"), ("d", "edge2", "edge1")])
def test_a_client_registers_at_the_nearest_edge(
    lab: Lab, host: str, near: str, far: str, order: tuple[str, str]
) -> None:
    urls = {name: f"ws://{lab[name].address}:7000" for name in order}
    words = [word for name in order for word in ("--edge", urls[name])]
    client = EventProcess(lab[host], [*PUNCH, "receive", "k7x2mq-amber-falcon-tulip", "--yes", *words, "--json"])
    assert wait_for([client], lambda: client.first("registered") is not None, 20), client.errors
    registered, measured = client.first("registered"), client.first("edges_measured")
    client.end()
    assert registered is not None
    assert measured is not None
    assert registered["edge"] == near
    assert [each["edge"] for each in measured["edges"]] == [urls[near], urls[far]]
    # One way, 5 ms on the access link and 1 ms to the edge; 40 ms more to the far one.
    assert measured["edges"][0]["round_trip_s"] >= 0.012
    assert measured["edges"][1]["round_trip_s"] >= 0.092
