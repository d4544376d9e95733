"""Which SYNs cross, and the skew between them."""

from __future__ import annotations

import pytest

from tests.lab.exchange.story import OUT_B, A, B, Story, only


def test_port_translation_does_not_hide_a_crossing() -> None:
    story = Story()
    outside_a, outside_b = "11.0.1.2:50001", "11.0.2.2:50002"
    story.tcp(0, "S", 100, source=(A, outside_a, outside_a), destination=(outside_b, outside_b, B))
    story.tcp(5, "S", 200, forth=False, source=(B, outside_b, outside_b), destination=(outside_a, outside_a, A))
    exchange = story.told()
    assert exchange.crossed
    assert [each.after for each in only(exchange.syns("a")).translations] == [
        (outside_a, outside_b),
        (outside_a, B),
    ]
    assert exchange.skew_s == pytest.approx(0.005)
    assert exchange.delay_s("a") == pytest.approx(0.02, abs=1e-4)


@pytest.mark.parametrize(
    ("skew_ms", "crossed"), [(-19.9, True), (0, True), (19.9, True), (20.2, False), (-20.2, False)]
)
def test_syns_cross_when_each_leaves_before_the_other_arrives(skew_ms: float, crossed: bool) -> None:
    story = Story()
    story.tcp(100, "S", 100)
    story.tcp(100 + skew_ms, "S", 200, forth=False)
    exchange = story.told()
    assert exchange.crossed is crossed
    assert exchange.skew_s == pytest.approx(skew_ms / 1000)


def test_syns_of_different_connections_do_not_cross() -> None:
    """A symmetric NAT's SYN comes from a port that the peer's SYN does not go to."""
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(0, "S", 200, forth=False, source=(B, "11.0.2.2:53211", "11.0.2.2:53211"), until=4)
    exchange = story.told()
    assert not exchange.crossed
    assert [exchange.dropped_at(syn) for syn in exchange.dropped] == ["nat_b", "nat_a"]


def test_a_later_attempt_can_cross() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(21, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    story.tcp(100, "S", 101)
    story.tcp(105, "S", 200, forth=False)
    exchange = story.told()
    crossing = exchange.crossing
    assert crossing is not None
    assert [segment.sequence for segment in crossing] == [101, 200]
    assert exchange.skew_s == pytest.approx(0.105)


def test_the_skew_is_of_the_syns_to_where_the_internet_finds_the_peer() -> None:
    story = Story()
    story.add(0, ("a-eth0>",), [(A, "10.9.9.9:41000")], story.segment("S", 50, 0, 1))
    story.tcp(10, "S", 100)
    story.tcp(13, "S", 200, forth=False)
    exchange = story.told()
    assert exchange.skew_s == pytest.approx(0.003)
    assert exchange.summary()["syns"] == 3
    assert exchange.dropped_at(exchange.syns("a")[0]) == "a"
