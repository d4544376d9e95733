"""Effects of a link on packets, with every implementation that this kernel supports."""

from __future__ import annotations

import math
import re
import socket
import statistics
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from punchlab.lab.impair import Impairment

if TYPE_CHECKING:
    from tests.lab.impair.conftest import Wire

UDP_SEGMENT = 103


def binomial_interval(trials: int, chance: float, confidence: float) -> tuple[int, int]:
    """Return the minimum and maximum number of hits, so that each tail has at most (1 - confidence) / 2."""
    tail = (1 - confidence) / 2
    mass = [math.comb(trials, hits) * chance**hits * (1 - chance) ** (trials - hits) for hits in range(trials + 1)]
    low = next(hits for hits in range(trials + 1) if sum(mass[: hits + 1]) > tail)
    high = next(hits for hits in range(trials, -1, -1) if sum(mass[hits:]) > tail)
    return low, high


def test_ping_measures_a_round_trip_of_100_ms(wire: Wire, implementation: str) -> None:
    wire.impair(Impairment(delay_s=0.05), Impairment(delay_s=0.05))
    with wire.here.entered():
        ping = ["ping", "-n", "-i", "0.02", "-c", "50", "11.0.0.2"]
        output = subprocess.run(ping, capture_output=True, text=True, check=True).stdout
    times_ms = [float(time) for time in re.findall(r"time=([\d.]+)", output)]
    assert len(times_ms) == 50
    assert min(times_ms) >= 99.9
    assert statistics.median(times_ms) == pytest.approx(100, abs=2 if implementation == "nfqueue" else 5)


def test_each_direction_has_its_own_delay(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.1))
    there = [arrival.delay for arrival in wire.send(50, gap_s=0.005)]
    back = [arrival.delay for arrival in wire.send(50, gap_s=0.005, back=True)]
    assert min(there) >= 0.1
    assert statistics.median(there) < 0.11
    assert statistics.median(back) < 0.01


def test_loss_has_the_given_rate_and_is_counted(wire: Wire) -> None:
    links = wire.impair(Impairment(delay_s=0.01, loss=0.1))
    arrived = wire.send(1000, gap_s=0.0005)
    low, high = binomial_interval(1000, 0.1, 0.9999)
    lost = 1000 - len(arrived)
    assert low <= lost <= high
    counters = links.counters()[0]
    assert counters is not None
    assert (counters.packets, counters.dropped) == (1000, lost)


def test_loss_works_without_a_delay(wire: Wire) -> None:
    wire.impair(Impairment(loss=0.5))
    arrived = wire.send(200, gap_s=0.0005)
    low, high = binomial_interval(200, 0.5, 0.9999)
    assert low <= len(arrived) <= high
    assert statistics.median(arrival.delay for arrival in arrived) < 0.01


def test_total_loss_drops_all_packets(wire: Wire) -> None:
    wire.impair(Impairment(loss=1))
    assert wire.send(20, patience_s=0.1) == []


def test_jitter_is_uniform_within_its_limits(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.2, jitter_s=0.1))
    delays = [arrival.delay for arrival in wire.send(200, gap_s=0.01)]
    assert len(delays) == 200
    assert 0.1 <= min(delays) < 0.12
    assert max(delays) > 0.28
    assert statistics.quantiles(delays, n=4) == pytest.approx([0.15, 0.2, 0.25], abs=0.03)


def test_jitter_reorders(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.02, jitter_s=0.01))
    numbers = [arrival.number for arrival in wire.send(100, gap_s=0.001)]
    assert sorted(numbers) == list(range(100))
    assert numbers != sorted(numbers)


def test_without_jitter_packets_stay_in_order(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.005))
    assert [arrival.number for arrival in wire.send(200)] == list(range(200))


def test_bandwidth_delays_every_frame_by_its_transmission_time(wire: Wire) -> None:
    wire.impair(Impairment(bandwidth=2e6))
    arrivals = wire.send(201, size=1250)
    assert arrivals[0].delay >= 0.005
    assert arrivals[-1].received - arrivals[0].received == pytest.approx(1, abs=0.05)


def test_jitter_behind_a_bandwidth_does_not_reorder(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.02, jitter_s=0.01, bandwidth=10e6))
    assert [arrival.number for arrival in wire.send(100, gap_s=0.001)] == list(range(100))


def test_a_full_link_drops_and_counts_packets(wire: Wire) -> None:
    links = wire.impair(Impairment(bandwidth=1e4))
    with wire.udp(wire.here) as sender:
        for _ in range(1300):
            sender.sendto(b"", ("11.0.0.2", 5000))
    counters = links.counters()[0]
    assert counters is not None
    assert counters.packets == 1300
    assert counters.dropped == counters.overflowed
    assert counters.overflowed == pytest.approx(300, abs=30)  # some have left meanwhile


def test_loss_hits_single_packets_of_a_large_send(wire: Wire) -> None:
    wire.impair(Impairment(loss=0.5))
    with wire.udp(wire.here) as sender, wire.udp(wire.there) as receiver:
        sender.connect(receiver.getsockname())
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        receiver.settimeout(0.2)
        counts = []
        for _ in range(10):
            sender.send(bytes(10_000))
            arrived = 0
            try:
                while receiver.recv(2000):
                    arrived += 1
            except TimeoutError:
                counts.append(arrived)
    assert set(counts) - {0, 10}


@pytest.mark.parametrize("impairment", [Impairment(delay_s=0.005, loss=0.05), Impairment(delay_s=0.005, bandwidth=2e7)])
def test_tcp_passes(wire: Wire, impairment: Impairment) -> None:
    wire.impair(impairment, Impairment(delay_s=0.005))
    sent, received = bytes(range(256)) * 1024, bytearray()
    with wire.there.entered():
        server = socket.create_server(("11.0.0.2", 5000))
    with wire.here.entered():
        client = socket.socket()

    def receive() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                received.extend(data)

    with server, client:
        receiver = threading.Thread(target=receive)
        receiver.start()
        client.settimeout(30)
        client.connect(server.getsockname())
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        receiver.join()
    assert received == sent


def test_links_without_impairment_cost_nothing(wire: Wire) -> None:
    links = wire.impair()
    assert links.name == "none"
    assert links.counters() == [None, None]


def test_the_record_names_the_implementation(wire: Wire, implementation: str) -> None:
    links = wire.impair(Impairment(delay_s=0.001))
    assert links.name == implementation
    assert links.counters()[1] is None


def test_counters_are_available_after_close(wire: Wire) -> None:
    links = wire.impair(Impairment(delay_s=0.001))
    wire.send(10)
    links.close()
    links.close()
    counters = links.counters()[0]
    assert counters is not None
    assert counters.packets == 10
