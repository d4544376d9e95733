"""Judge which requirements of RFC 4787 (UDP) and RFC 5382 (TCP) a NAT meets. No input or output.

Facts are (transport, field) -> text. Fields and texts are those of `punch.nat.behavior`, `timeouts.NAME` in seconds,
and fields that no device claims: `icmp_ends_mapping` and `simultaneous_open` (yes or no) and `fragments` (reassembled
or lost). A requirement is not judged if a fact that it needs is unknown or was not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    MappingBehavior,
    PortAllocation,
    Refresh,
    Unsolicited,
)

Facts = Mapping[tuple[str, str], str]


def tested(word: str) -> bool:
    """Return whether a fact was observed. The text of an untested fact is `not tested: REASON`."""
    return not word.startswith("not tested")


class Verdict(StrEnum):
    """The result for a requirement."""

    PASSED = "pass"
    FAILED = "fail"
    EXPECTED = "fail (expected: the device does so)"
    NOT_TESTED = "not tested"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement. `level` and `text` follow the RFC. `why_not` is the reason if the requirement is never
    judged.
    """

    rfc: int
    name: str
    level: str
    text: str
    met: Callable[[Callable[[str], str]], bool] | None
    why_not: str = ""

    @property
    def transport(self) -> str:
        """The transport that the RFC specifies."""
        return "udp" if self.rfc == 4787 else "tcp"

    def judge(self, facts: Facts) -> bool | None:
        """Return whether a NAT with these facts meets the requirement, or None if facts are missing."""
        return self._judged(facts)[0]

    def untested(self, facts: Facts) -> str | None:
        """Return the text of the first untested fact that the requirement needs, or None."""
        return self._judged(facts)[1]

    def _judged(self, facts: Facts) -> tuple[bool | None, str | None]:
        def fact(field: str) -> str:
            word = facts[self.transport, field]
            if not tested(word):
                raise _UntestedError(f"{field.replace('_', ' ')} {word}")
            return word

        try:
            return None if self.met is None else self.met(fact), None
        except _UntestedError as untested:
            return None, str(untested)
        except KeyError:
            return None, None


class _UntestedError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Row:
    """A requirement and its result. `note` is the reason if it was not judged."""

    requirement: Requirement
    verdict: Verdict
    note: str = ""


Fact = Callable[[str], str]

_WIDE = (FilteringBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_DEPENDENT)


def _seconds(fact: Fact, *names: str) -> int:
    """Return the smallest of the timeouts. A timeout can have several values, separated by slashes; an invalid one is
    0.
    """
    parts = [part for name in names for part in fact(f"timeouts.{name}").split("/")]
    return min(int(part) if part.isdecimal() else 0 for part in parts)


def _independent(fact: Fact) -> bool:
    return fact("mapping") == MappingBehavior.ENDPOINT_INDEPENDENT


def _own_ports(fact: Fact) -> bool:
    return fact("port_overloading") == "no"


def _hairpins(fact: Fact) -> bool:
    return fact("hairpinning") == Hairpinning.EXTERNAL_SOURCE


def _survives_icmp(fact: Fact) -> bool:
    return fact("icmp_ends_mapping") == "no"


_NO_ALG = "the lab has no application level gateway"

REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement(4787, "REQ-1", "MUST", "endpoint-independent mapping", _independent),
    Requirement(4787, "REQ-2", "RECOMMENDED", "paired address pooling", lambda fact: fact("pooling") == "paired"),
    Requirement(4787, "REQ-3", "MUST NOT", "port overloading", _own_ports),
    Requirement(
        *(4787, "REQ-4", "RECOMMENDED", "port parity preserved"),
        lambda fact: fact("port_allocation") == PortAllocation.PRESERVING,
    ),
    Requirement(
        *(4787, "REQ-5", "MUST NOT", "mapping expires within 2 minutes"),
        lambda fact: _seconds(fact, "udp_solitary_s", "udp_stream_s") >= 120,
    ),
    Requirement(
        *(4787, "REQ-6", "MUST", "outbound packets refresh the mapping"),
        lambda fact: fact("refresh") in (Refresh.OUTBOUND, Refresh.BOTH),
    ),
    Requirement(4787, "REQ-7", "MUST", "the same network inside and outside", None, "the lab's networks differ"),
    Requirement(
        *(4787, "REQ-8", "RECOMMENDED", "filtering endpoint-independent or address-dependent"),
        lambda fact: fact("filtering") in _WIDE,
    ),
    Requirement(4787, "REQ-9", "MUST", "hairpinning with the external source", _hairpins),
    Requirement(4787, "REQ-10", "SHOULD", "application level gateways off", None, _NO_ALG),
    Requirement(4787, "REQ-11", "MUST", "deterministic: same mapping behavior when ports clash", _own_ports),
    Requirement(4787, "REQ-12", "MUST NOT", "mapping terminated by ICMP", _survives_icmp),
    Requirement(4787, "REQ-13", "MUST", "ICMP Packet Too Big", None, "every link of the lab has one MTU"),
    Requirement(
        *(4787, "REQ-14", "MUST", "fragments received out of order"),
        lambda fact: fact("fragments") == "reassembled",
    ),
    Requirement(5382, "REQ-1", "MUST", "endpoint-independent mapping", _independent),
    Requirement(
        *(5382, "REQ-2", "MUST", "all valid sequences, including simultaneous open"),
        lambda fact: fact("simultaneous_open") == "yes",
    ),
    Requirement(
        *(5382, "REQ-3", "RECOMMENDED", "filtering endpoint-independent or address-dependent"),
        lambda fact: fact("filtering") in _WIDE,
    ),
    Requirement(
        *(5382, "REQ-4", "MUST NOT", "answer to an unsolicited SYN within 6 seconds"),
        lambda fact: fact("unsolicited") in (Unsolicited.DROP, Unsolicited.SILENT_THEN_ICMP),
    ),
    Requirement(
        *(5382, "REQ-5", "MUST NOT", "established connection expires within 2 h 4 min, others within 4 min"),
        lambda fact: (
            _seconds(fact, "tcp_established_s") >= 7440 and _seconds(fact, "tcp_transitory_s", "tcp_closing_s") >= 240
        ),
    ),
    Requirement(5382, "REQ-6", "RECOMMENDED", "application level gateways off", None, _NO_ALG),
    Requirement(5382, "REQ-7", "MUST NOT", "port overloading", _own_ports),
    Requirement(5382, "REQ-8", "MUST", "hairpinning with the external source", _hairpins),
    Requirement(*(5382, "REQ-9", "SHOULD", "ICMP errors translated"), lambda fact: fact("icmp_errors") == "translated"),
    Requirement(5382, "REQ-10", "MUST NOT", "mapping or connection terminated by ICMP", _survives_icmp),
)
"""In the order of the RFCs."""


def judge(claimed: Facts, found: Facts) -> Iterator[Row]:
    """Judge every requirement by the observations. A failure that the claimed behavior implies is expected.

    `NOT_APPLICABLE`: never judged, or no test observes a fact that it needs. `NOT_TESTED`: the test of such a fact
    failed this time.
    """
    for requirement in REQUIREMENTS:
        met = requirement.judge(found)
        if met is None and (untested := requirement.untested(found)) is not None:
            yield Row(requirement, Verdict.NOT_TESTED, untested)
        elif met is None:
            yield Row(requirement, Verdict.NOT_APPLICABLE, requirement.why_not or "not observed")
        elif met:
            yield Row(requirement, Verdict.PASSED)
        else:
            yield Row(requirement, Verdict.EXPECTED if requirement.judge(claimed) is False else Verdict.FAILED)
