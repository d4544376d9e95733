"""Which requirements of the RFCs a NAT meets, given facts about it."""

from __future__ import annotations

import pytest

from punchlab.lab.check.requirements import REQUIREMENTS, Verdict, judge

IDEAL = {
    **{
        (transport, field): word
        for transport in ("udp", "tcp")
        for field, word in {
            "mapping": "endpoint-independent",
            "filtering": "endpoint-independent",
            "port_allocation": "preserving",
            "port_overloading": "no",
            "pooling": "paired",
            "hairpinning": "external-source",
            "icmp_errors": "translated",
            "icmp_ends_mapping": "no",
        }.items()
    },
    ("udp", "refresh"): "both",
    ("udp", "fragments"): "reassembled",
    ("udp", "timeouts.udp_solitary_s"): "300",
    ("udp", "timeouts.udp_stream_s"): "300",
    ("tcp", "timeouts.tcp_transitory_s"): "240",
    ("tcp", "timeouts.tcp_closing_s"): "240",
    ("tcp", "timeouts.tcp_established_s"): "7440",
    ("tcp", "unsolicited"): "silent-then-icmp",
    ("tcp", "simultaneous_open"): "yes",
}
NEVER_JUDGED = {(4787, "REQ-7"), (4787, "REQ-10"), (4787, "REQ-13"), (5382, "REQ-6")}


def verdicts(claimed: dict[tuple[str, str], str], found: dict[tuple[str, str], str]) -> dict[tuple[int, str], Verdict]:
    return {(row.requirement.rfc, row.requirement.name): row.verdict for row in judge(claimed, found)}


def test_there_is_a_row_for_every_requirement_of_both_rfcs() -> None:
    names = [(each.rfc, each.name) for each in REQUIREMENTS]
    assert names == [(4787, f"REQ-{n}") for n in range(1, 15)] + [(5382, f"REQ-{n}") for n in range(1, 11)]


def test_the_ideal_nat_meets_all_requirements_and_others_have_a_reason() -> None:
    rows = list(judge(IDEAL, IDEAL))
    assert {(row.requirement.rfc, row.requirement.name) for row in rows if row.verdict != "pass"} == NEVER_JUDGED
    assert all(row.note for row in rows if row.verdict is Verdict.NOT_APPLICABLE)


@pytest.mark.parametrize(
    ("fact", "word", "broken"),
    [
        (("udp", "mapping"), "address-dependent", {(4787, "REQ-1")}),
        (("tcp", "mapping"), "address-and-port-dependent", {(5382, "REQ-1")}),
        (("udp", "pooling"), "arbitrary", {(4787, "REQ-2")}),
        (("udp", "port_overloading"), "yes", {(4787, "REQ-3"), (4787, "REQ-11")}),
        (("udp", "port_allocation"), "random", {(4787, "REQ-4")}),
        (("udp", "timeouts.udp_solitary_s"), "119", {(4787, "REQ-5")}),
        (("udp", "timeouts.udp_stream_s"), "30", {(4787, "REQ-5")}),
        (("udp", "refresh"), "inbound", {(4787, "REQ-6")}),
        (("udp", "filtering"), "address-and-port-dependent", {(4787, "REQ-8")}),
        (("udp", "hairpinning"), "internal-source", {(4787, "REQ-9")}),
        (("udp", "icmp_ends_mapping"), "yes", {(4787, "REQ-12")}),
        (("udp", "fragments"), "lost", {(4787, "REQ-14")}),
        (("tcp", "simultaneous_open"), "no", {(5382, "REQ-2")}),
        (("tcp", "filtering"), "address-and-port-dependent", {(5382, "REQ-3")}),
        (("tcp", "unsolicited"), "reset", {(5382, "REQ-4")}),
        (("tcp", "unsolicited"), "port-unreachable", {(5382, "REQ-4")}),
        (("tcp", "unsolicited"), "drop", set()),
        (("tcp", "timeouts.tcp_established_s"), "7439", {(5382, "REQ-5")}),
        (("tcp", "timeouts.tcp_established_s"), "7440, but not when idle", {(5382, "REQ-5")}),
        (("tcp", "timeouts.tcp_transitory_s"), "239", {(5382, "REQ-5")}),
        (("tcp", "timeouts.tcp_transitory_s"), "240/60", {(5382, "REQ-5")}),
        (("tcp", "timeouts.tcp_closing_s"), "60", {(5382, "REQ-5")}),
        (("tcp", "port_overloading"), "yes", {(5382, "REQ-7")}),
        (("tcp", "hairpinning"), "none", {(5382, "REQ-8")}),
        (("tcp", "icmp_errors"), "swallowed", {(5382, "REQ-9")}),
        (("tcp", "icmp_ends_mapping"), "yes", {(5382, "REQ-10")}),
    ],
)
def test_a_failure_is_expected_only_if_the_claimed_behavior_implies_it(
    fact: tuple[str, str], word: str, broken: set[tuple[int, str]]
) -> None:
    rude = {**IDEAL, fact: word}
    for claimed, failure in ((rude, Verdict.EXPECTED), (IDEAL, Verdict.FAILED)):
        seen = verdicts(claimed, rude)
        assert {which for which, verdict in seen.items() if verdict is failure} == broken
        assert sum(verdict is Verdict.PASSED for verdict in seen.values()) == len(REQUIREMENTS) - 4 - len(broken)


def test_unknown_facts_are_not_judged() -> None:
    found = {fact: word for fact, word in IDEAL.items() if fact != ("udp", "refresh")}
    found["tcp", "timeouts.tcp_established_s"] = "not tested: the machine is too busy to idle to the second"
    found["tcp", "hairpinning"] = "not tested: the server does not answer"
    seen = verdicts(IDEAL, found)
    assert seen[4787, "REQ-6"] is Verdict.NOT_APPLICABLE
    assert {seen[which] for which in ((5382, "REQ-5"), (5382, "REQ-8"))} == {Verdict.NOT_TESTED}
    notes = {(row.requirement.rfc, row.requirement.name): row.note for row in judge(IDEAL, found)}
    assert notes[5382, "REQ-8"] == "hairpinning not tested: the server does not answer"
