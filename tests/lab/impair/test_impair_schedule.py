"""The schedule of one direction, without a kernel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.impair import Impairment
from punchlab.lab.impair.engine import Lateness
from punchlab.lab.impair.schedule import ETHERNET_HEADER, Schedule

MS = 1_000_000
gaps = st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(20, 1500)), min_size=1, max_size=50)


def departures(
    impairment: Impairment, packets: list[tuple[int, int]], seed: str = "seed"
) -> list[tuple[int, int, int]]:
    """Return (arrival, length, departure) of packets that arrive with these gaps."""
    schedule, now, result = Schedule(impairment, seed), 0, []
    for gap, length in packets:
        now += gap
        result.append((now, length, schedule.departure(now, length)))
    return result


@given(gaps)
def test_a_delay_is_added_to_every_packet(packets: list[tuple[int, int]]) -> None:
    assert all(out == now + 20 * MS for now, _, out in departures(Impairment(delay_s=0.02), packets))


@given(gaps)
def test_jitter_stays_within_its_limits(packets: list[tuple[int, int]]) -> None:
    impairment = Impairment(delay_s=0.02, jitter_s=0.02)
    assert all(now <= out <= now + 40 * MS for now, _, out in departures(impairment, packets))


@given(gaps)
def test_a_bandwidth_separates_packets_by_their_transmission_time(packets: list[tuple[int, int]]) -> None:
    before = 0
    for now, length, out in departures(Impairment(delay_s=0.02, jitter_s=0.01, bandwidth=8e6), packets):
        transmission = (length + ETHERNET_HEADER) * 1000  # 8 Mbit/s: one byte per microsecond
        assert out >= max(before, now + 10 * MS) + transmission
        before = out


def test_an_idle_link_takes_the_delay_and_the_transmission_time() -> None:
    impairment = Impairment(delay_s=0.02, bandwidth=8e6)
    assert departures(impairment, [(0, 986), (100 * MS, 986)])[1][2] == 121 * MS


def test_the_same_seed_gives_the_same_draws() -> None:
    impairment = Impairment(delay_s=0.02, jitter_s=0.01, loss=0.5)

    def fates(seed: str) -> list[bool]:
        schedule = Schedule(impairment, seed)
        return [schedule.lost() for _ in range(100)]

    assert fates("1") == fates("1") != fates("2")
    packets = [(MS, 100)] * 100
    assert departures(impairment, packets, "1") == departures(impairment, packets, "1")
    assert departures(impairment, packets, "1") != departures(impairment, packets, "2")


def test_lateness_has_median_and_maximum() -> None:
    lateness = Lateness()
    assert lateness.summary() == (None, None)
    for late_us in (52, 54, 56, 1000, 90_000):
        lateness.add(late_us * 1000)
    median_s, worst_s = lateness.summary()
    assert median_s == 55e-6
    assert worst_s == 0.09
