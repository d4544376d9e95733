"""What a NAT does, in the vocabulary of RFC 4787 (UDP) and RFC 5382 (TCP).

A behavior says *what* is observed from outside; how a Linux box is made to do it is `lab.nat.rules`, and which famous
names stand for which behaviors is `lab.nat.presets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BehaviorError(ValueError):
    """A combination of behaviors that no NAT can have, or that this project cannot tell apart from another one."""


class Mapping(StrEnum):
    """On what the external endpoint of an inside endpoint depends (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(StrEnum):
    """Which outside endpoints may answer through a mapping (RFC 4787 section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAllocation(StrEnum):
    """How the external port of a new mapping is chosen (RFC 4787 section 4.2)."""

    PRESERVING = "preserving"
    RANDOM = "random"


class Unsolicited(StrEnum):
    """The answer to a SYN that no mapping and filter admits (RFC 5382 section 4.3). UDP is dropped in both cases."""

    DROP = "drop"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class NatBehavior:
    """One NAT, as seen from outside. Raises `BehaviorError` for a combination that cannot be built."""

    mapping: Mapping
    filtering: Filtering
    port_allocation: PortAllocation
    unsolicited: Unsolicited = Unsolicited.DROP

    def __post_init__(self) -> None:
        destination_dependent = self.mapping is not Mapping.ENDPOINT_INDEPENDENT
        if destination_dependent and self.port_allocation is PortAllocation.PRESERVING:
            raise BehaviorError(
                f"port_allocation: {self.port_allocation} with {self.mapping} mapping looks endpoint-independent "
                f"from outside; expected {PortAllocation.RANDOM}"
            )
        if self.mapping is Mapping.ADDRESS_DEPENDENT:
            raise BehaviorError(f"mapping: {self.mapping} is not built yet; expected one of the other two")
        if destination_dependent and self.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT:
            raise BehaviorError(
                f"filtering: {self.filtering} with {self.mapping} mapping is not built yet; "
                f"expected {Filtering.ADDRESS_AND_PORT_DEPENDENT}"
            )
