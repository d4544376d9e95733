"""Impossible NAT behaviors are rejected at construction, with the reason and the two conflicting fields."""

from __future__ import annotations

from typing import Any

import pytest

from punchlab.punch.nat.behavior import (
    BehaviorError,
    FilteringBehavior,
    Hairpinning,
    MappingBehavior,
    NatBehavior,
    Pooling,
    PortAllocation,
    PortMapping,
    Refresh,
    Timeouts,
    Unsolicited,
)

EIM, ADM, APDM = MappingBehavior
EIF, ADF, APDF = FilteringBehavior
PRESERVING, RANDOM, SEQUENTIAL, BLOCKS = PortAllocation
SILENT = Unsolicited.SILENT_THEN_ICMP


@pytest.mark.parametrize(
    ("mapping", "filtering", "allocation", "options", "words"),
    [
        (APDM, APDF, PRESERVING, {"port_overloading": True}, ["port_overloading", "looks endpoint-independent"]),
        (EIM, EIF, PRESERVING, {"port_overloading": True}, ["port_overloading", "filtering", "any of the hosts"]),
        (EIM, APDF, RANDOM, {"port_overloading": True}, ["port_overloading", "port_allocation random"]),
        (
            *(EIM, APDF, PRESERVING),
            {"port_overloading": True, "hairpinning": Hairpinning.EXTERNAL_SOURCE},
            ["port_overloading", "hairpinning"],
        ),
        (EIM, EIF, RANDOM, {"on_clash": SEQUENTIAL}, ["on_clash", "port_allocation random"]),
        (EIM, EIF, PRESERVING, {"on_clash": BLOCKS}, ["on_clash: blocks"]),
        (EIM, EIF, RANDOM, {"port_delta": 2}, ["port_delta: 2", "port_allocation random"]),
        (APDM, APDF, SEQUENTIAL, {"port_delta": 0}, ["port_delta: 0"]),
        (APDM, APDF, RANDOM, {"port_range": (5000, 4000)}, ["port_range: 5000-4000"]),
        (APDM, APDF, BLOCKS, {"block_size": 2000, "port_range": (4000, 5000)}, ["block_size: 2000", "port_range"]),
        (EIM, EIF, RANDOM, {"pool_size": 0}, ["pool_size: 0"]),
        (EIM, EIF, RANDOM, {"pooling": Pooling.ARBITRARY}, ["pooling: arbitrary", "pool_size 1"]),
        (EIM, EIF, RANDOM, {"silence_s": 3}, ["silence_s: 3", "unsolicited drop"]),
        (EIM, EIF, RANDOM, {"silence_s": 0, "unsolicited": SILENT}, ["silence_s: 0"]),
        (EIM, EIF, RANDOM, {"reset_closes": False}, ["reset_closes", "filtering endpoint-independent"]),
        (EIM, ADF, RANDOM, {"reset_closes": False}, ["reset_closes", "filtering address-dependent"]),
        (
            *(EIM, APDF, PRESERVING),
            {"port_overloading": True, "reset_closes": False},
            ["port_overloading", "reset_closes"],
        ),
        (
            *(EIM, APDF, PRESERVING),
            {"port_overloading": True, "refresh": Refresh.OUTBOUND},
            ["refresh: outbound", "port_overloading"],
        ),
        (EIM, EIF, PRESERVING, {"translates": False, "refresh": Refresh.OUTBOUND}, ["refresh: outbound", "translates"]),
        (
            *(EIM, EIF, PRESERVING),
            {"port_mapping": PortMapping.PCP, "refresh": Refresh.OUTBOUND},
            ["refresh: outbound", "port_mapping"],
        ),
        (APDM, APDF, PRESERVING, {"translates": False}, ["translates", "mapping"]),
        (EIM, APDF, RANDOM, {"translates": False}, ["translates", "port_allocation"]),
    ],
)
def test_an_impossible_behavior_is_rejected_with_the_reason(
    mapping: MappingBehavior,
    filtering: FilteringBehavior,
    allocation: PortAllocation,
    options: dict[str, Any],
    words: list[str],
) -> None:
    with pytest.raises(BehaviorError) as caught:
        NatBehavior(mapping, filtering, allocation, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, 1.5])
def test_a_timeout_is_a_whole_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(BehaviorError, match="udp_stream_s"):
        Timeouts(udp_stream_s=seconds)


def test_default_timeouts_are_the_minimum_of_the_rfcs() -> None:
    timeouts = Timeouts()
    assert (timeouts.tcp_transitory_s, timeouts.tcp_established_s) == (240, 7440)
    assert (timeouts.udp_solitary_s, timeouts.udp_stream_s) == (300, 300)


def test_strings_are_equivalent_to_enum_members() -> None:
    words = NatBehavior(
        "endpoint-independent",  # type: ignore[arg-type]
        "address-and-port-dependent",  # type: ignore[arg-type]
        "preserving",  # type: ignore[arg-type]
        unsolicited="reset",  # type: ignore[arg-type]
        on_clash="sequential",  # type: ignore[arg-type]
        port_mapping="pcp",  # type: ignore[arg-type]
        port_range=[2000, 3000],  # type: ignore[arg-type]
        timeouts={"tcp_established_s": 100},  # type: ignore[arg-type]
    )
    members = NatBehavior(
        *(EIM, APDF, PRESERVING),
        unsolicited=Unsolicited.RESET,
        on_clash=SEQUENTIAL,
        port_mapping=PortMapping.PCP,
        port_range=(2000, 3000),
        timeouts=Timeouts(tcp_established_s=100),
    )
    assert words == members
    assert hash(words) == hash(members)
    assert words.mapping is EIM
    assert words.sequential
    assert not words.destination_dependent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"mapping": "endpoint_independent"},
            ["mapping: 'endpoint_independent'", "did you mean endpoint-independent?"],
        ),
        ({"filtering": "open"}, ["filtering: 'open'", "one of endpoint-independent"]),
        ({"filtering": ""}, ["filtering: ''"]),
        ({"port_allocation": "preserve"}, ["port_allocation", "did you mean preserving?"]),
        ({"unsolicited": "rst"}, ["unsolicited: 'rst'"]),
        ({"on_clash": None}, ["on_clash: None"]),
        ({"pooling": 1}, ["pooling: 1"]),
        ({"hairpinning": True}, ["hairpinning: True"]),
        ({"icmp_errors": "translate"}, ["icmp_errors", "did you mean translated?"]),
        ({"refresh": ["both"]}, ["refresh: ['both']"]),
        ({"port_mapping": "upnp"}, ["port_mapping: 'upnp'", "upnp-igd"]),
        ({"silence_s": float("nan"), "unsolicited": SILENT}, ["silence_s: nan", "whole number from 1 to 60"]),
        ({"pool_size": True}, ["pool_size: True"]),
        ({"pool_size": "2"}, ["pool_size: '2'"]),
        ({"port_delta": 10**5, "port_allocation": SEQUENTIAL}, ["port_delta: 100000"]),
        ({"block_size": 1.5}, ["block_size: 1.5"]),
        ({"port_range": (0, 10)}, ["port_range: 0", "1 to 65535"]),
        ({"port_range": 1024}, ["port_range: 1024", "two ports"]),
        ({"port_range": (1, 2, 3)}, ["port_range: (1, 2, 3)"]),
        ({"port_overloading": "yes"}, ["port_overloading: 'yes'", "True or False"]),
        ({"reset_closes": 1}, ["reset_closes: 1"]),
        ({"translates": None}, ["translates: None"]),
        ({"timeouts": 5}, ["timeouts: 5"]),
        ({"timeouts": {"tcp_s": 5}}, ["timeouts: 'tcp_s'", "tcp_established_s"]),
        ({"timeouts": {"tcp_established_s": True}}, ["timeouts.tcp_established_s: True"]),
    ],
)
def test_an_invalid_value_is_rejected_with_what_was_expected(options: dict[str, Any], words: list[str]) -> None:
    given = {"mapping": EIM, "filtering": EIF, "port_allocation": PRESERVING} | options
    with pytest.raises(BehaviorError) as caught:
        NatBehavior(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_timeout_has_the_limit_of_the_kernel() -> None:
    with pytest.raises(BehaviorError, match=r"timeouts.udp_stream_s: 10000000000 .*2000000"):
        Timeouts(udp_stream_s=10**10)
