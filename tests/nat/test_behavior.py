"""What no NAT can be is refused when the behavior is made, with the reason and the two fields at odds."""

from __future__ import annotations

from typing import Any

import pytest

from punch.nat.behavior import (
    BehaviorError,
    Filtering,
    Hairpinning,
    Mapping,
    NatBehavior,
    Pooling,
    PortAllocation,
    PortMapping,
    Refresh,
    Timeouts,
    Unsolicited,
)

EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
PRESERVING, RANDOM, SEQUENTIAL, BLOCKS = PortAllocation
SILENT = Unsolicited.SILENT_THEN_ICMP


@pytest.mark.parametrize(
    ("mapping", "filtering", "allocation", "options", "words"),
    [
        (APDM, APDF, PRESERVING, {"port_overloading": True}, ["port_overloading", "looks endpoint-independent"]),
        (EIM, EIF, PRESERVING, {"port_overloading": True}, ["port_overloading", "filtering", "either host"]),
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
def test_what_cannot_be_is_refused_with_the_reason(
    mapping: Mapping, filtering: Filtering, allocation: PortAllocation, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(BehaviorError) as caught:
        NatBehavior(mapping, filtering, allocation, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, 1.5])
def test_a_timeout_is_a_whole_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(BehaviorError, match="udp_stream_s"):
        Timeouts(udp_stream_s=seconds)


def test_the_timeouts_are_by_default_the_least_that_the_rfcs_allow() -> None:
    timeouts = Timeouts()
    assert (timeouts.tcp_transitory_s, timeouts.tcp_established_s) == (240, 7440)
    assert (timeouts.udp_solitary_s, timeouts.udp_stream_s) == (300, 300)
