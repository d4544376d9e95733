"""The behavior of a NAT, in the terms of RFC 4787 (UDP) and RFC 5382 (TCP).

A `NatBehavior` describes what can be observed from outside. `lab.nat.rules` implements it on Linux, and
`lab.nat.presets` lists the behaviors of known NATs.
"""

from __future__ import annotations

from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TypeVar

from punchlab.punch.suggestion import one_of
from punchlab.punch.text import shown


class BehaviorError(ValueError):
    """A value that a field does not accept, or a combination that no NAT can have or that this project cannot
    distinguish from another one. The text is one line that names the field, the value and what is expected.
    """


def _refused(name: str, value: object, expected: str) -> BehaviorError:
    return BehaviorError(f"{name}: {shown(value)} cannot be used; expected {expected}")


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _refused(name, value, f"a whole number from {least} to {most}")


_Kind = TypeVar("_Kind", bound=StrEnum)


def _member(name: str, value: object, kind: type[_Kind]) -> _Kind:
    """Return the member of the enumeration that equals the value, or has it as its name."""
    names = [str(each) for each in kind]
    if isinstance(value, str) and value in names:
        return kind(value)
    similar = value.lower().replace("_", "-") if isinstance(value, str) else value
    raise _refused(name, value, one_of(similar, names))


class MappingBehavior(StrEnum):
    """Which parts of the destination the external endpoint of a mapping depends on (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class FilteringBehavior(StrEnum):
    """Which outside endpoints may send packets through a mapping (RFC 4787 section 5).

    The filter belongs to the mapping that a packet arrives at. Endpoints that the same host has contacted through
    another mapping do not count, as in the symmetric NAT of RFC 3489.
    """

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAllocation(StrEnum):
    """How a NAT chooses the external port of a new mapping (RFC 4787 section 4.2).

    `preserving` keeps the inside port if no other mapping has it, and otherwise allocates by `NatBehavior.on_clash`.
    With destination-dependent mapping, the mapping to the first destination keeps the port and the others do not.
    `blocks` assigns each inside host a block of `block_size` ports and allocates from it at random.
    """

    PRESERVING = "preserving"
    RANDOM = "random"
    SEQUENTIAL = "sequential"
    BLOCKS = "blocks"


class Pooling(StrEnum):
    """Whether all mappings of an inside host have the same external address (RFC 4787 section 4.1, REQ-2)."""

    PAIRED = "paired"
    ARBITRARY = "arbitrary"


class Hairpinning(StrEnum):
    """How a NAT handles a packet from an inside host to the external endpoint of another (RFC 4787 section 6).

    Filtering does not apply. With `internal-source` the receiver sees a private address and answers to it directly, so
    a TCP connection fails; the RFCs require `external-source`.
    """

    NONE = "none"
    EXTERNAL_SOURCE = "external-source"
    INTERNAL_SOURCE = "internal-source"


class Unsolicited(StrEnum):
    """The answer to a SYN that no mapping or filter accepts (RFC 5382 section 4.3). UDP is always dropped silently."""

    DROP = "drop"
    RESET = "reset"
    PORT_UNREACHABLE = "port-unreachable"
    """ICMP type 3, code 3."""
    HOST_PROHIBITED = "host-prohibited"
    """ICMP type 3, code 10."""
    ADMIN_PROHIBITED = "admin-prohibited"
    """ICMP type 3, code 13."""
    SILENT_THEN_ICMP = "silent-then-icmp"
    """REQ-4: no answer for `NatBehavior.silence_s`, then ICMP type 3, code 3. There is no answer at all if an outbound
    SYN of the same connection follows within that time, which is a simultaneous open."""

    @property
    def icmp_code(self) -> int | None:
        """The code of ICMP Destination Unreachable; None if the answer is of another kind."""
        codes = {"port-unreachable": 3, "host-prohibited": 10, "admin-prohibited": 13, "silent-then-icmp": 3}
        return codes.get(self.value)


class IcmpErrors(StrEnum):
    """How a NAT handles an inbound ICMP error about a packet of a mapping (RFC 5382 REQ-9)."""

    TRANSLATED = "translated"
    SWALLOWED = "swallowed"


class PortMapping(StrEnum):
    """The protocols by which an inside host can request a mapping that accepts packets from any endpoint."""

    NONE = "none"
    UPNP_IGD = "upnp-igd"
    """UPnP Internet Gateway Device."""
    PCP = "pcp"
    """RFC 6887, and on the same port its predecessor NAT-PMP (RFC 6886)."""
    ALL = "all"


class Refresh(StrEnum):
    """Which packets refresh a mapping (RFC 4787 section 4.3, REQ-6): only outbound packets, or all.

    This applies to UDP mappings and established TCP connections. With `outbound`, packets of a remote host do not keep
    the mapping of an inside host that has stopped sending.
    """

    OUTBOUND = "outbound"
    BOTH = "both"


LONGEST_TIMEOUT_S = 2_000_000
"""About 23 days; the kernel's limit is slightly higher."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Idle timeouts in whole seconds. The defaults are the minimum values of the RFCs.

    TCP (RFC 5382 REQ-5): `tcp_transitory_s` applies until the handshake is complete, then `tcp_established_s`, and
    `tcp_closing_s` after a FIN. UDP (RFC 4787 REQ-5): `udp_solitary_s` applies until traffic has flowed in both
    directions for a while, then `udp_stream_s`.

    Raises `BehaviorError` unless each is a whole number from 1 to `LONGEST_TIMEOUT_S`.
    """

    tcp_transitory_s: int = 240
    tcp_established_s: int = 7440
    tcp_closing_s: int = 240
    udp_solitary_s: int = 300
    udp_stream_s: int = 300

    def __post_init__(self) -> None:
        for each in fields(self):
            _whole(f"timeouts.{each.name}", getattr(self, each.name), 1, LONGEST_TIMEOUT_S)


_ANY_PORT = (1024, 65535)
_KINDS: ReadOnlyDict[str, type[StrEnum]] = {
    "mapping": MappingBehavior,
    "filtering": FilteringBehavior,
    "port_allocation": PortAllocation,
    "unsolicited": Unsolicited,
    "on_clash": PortAllocation,
    "pooling": Pooling,
    "hairpinning": Hairpinning,
    "icmp_errors": IcmpErrors,
    "refresh": Refresh,
    "port_mapping": PortMapping,
}
"""The fields of a behavior that are members of enumerations."""

REQ_4_SILENCE_S = 6
"""Seconds for which a NAT must not answer an unsolicited SYN (RFC 5382 REQ-4)."""


@dataclass(frozen=True, slots=True)
class NatBehavior:
    """One NAT as observed from outside. Raises `BehaviorError` for a value or combination that is not supported.

    As in TOML and JSON, an enumeration member may be given as its string value, `port_range` as a list of two ports,
    and `timeouts` as a dictionary of its fields.

    `port_range` is the first and last port of allocations that do not preserve the port. `port_delta` is the step of
    sequential allocation (negative: downwards). `port_overloading` lets inside hosts share an external port towards
    different destinations (RFC 4787 REQ-3 forbids it; Linux MASQUERADE does it). `pool_size` is the number of external
    addresses. With `translates` False the device is a stateful firewall, and hosts behind it have public addresses.

    `reset_closes` says whether a RST in either direction closes the pinhole of its connection, as in connection
    tracking. If not, the remote endpoint can connect until the mapping's idle timeout. If filtering is not
    address-and-port-dependent, pinholes belong to the mapping and survive RSTs. The mapping keeps its external port in
    every case. `refresh` says which packets reset the idle timeouts.
    """

    mapping: MappingBehavior
    filtering: FilteringBehavior
    port_allocation: PortAllocation
    unsolicited: Unsolicited = Unsolicited.DROP
    silence_s: int = REQ_4_SILENCE_S
    on_clash: PortAllocation = PortAllocation.RANDOM
    port_range: tuple[int, int] = _ANY_PORT
    port_delta: int = 1
    block_size: int = 1024
    port_overloading: bool = False
    pool_size: int = 1
    pooling: Pooling = Pooling.PAIRED
    hairpinning: Hairpinning = Hairpinning.NONE
    icmp_errors: IcmpErrors = IcmpErrors.TRANSLATED
    reset_closes: bool = True
    refresh: Refresh = Refresh.BOTH
    port_mapping: PortMapping = PortMapping.NONE
    timeouts: Timeouts = field(default_factory=Timeouts)
    translates: bool = True

    def __post_init__(self) -> None:
        self._take_values()
        self._check_ports()
        self._check_overloading()
        if self.pool_size == 1 and self.pooling is not Pooling.PAIRED:
            raise BehaviorError(f"pooling: {self.pooling} has no effect with pool_size 1; expected {Pooling.PAIRED}")
        self._check_memory()
        if not self.translates:
            self._check_firewall()

    @property
    def destination_dependent(self) -> bool:
        """Whether the external endpoint depends on the destination."""
        return self.mapping is not MappingBehavior.ENDPOINT_INDEPENDENT

    @property
    def sequential(self) -> bool:
        """Whether the NAT allocates some ports in sequence."""
        preserving = self.port_allocation is PortAllocation.PRESERVING
        return (self.on_clash if preserving else self.port_allocation) is PortAllocation.SEQUENTIAL

    def _take_values(self) -> None:
        """Convert each field to its type, and check the ranges that do not depend on other fields."""
        taken: dict[str, object] = {name: _member(name, getattr(self, name), kind) for name, kind in _KINDS.items()}
        for name in ("port_overloading", "reset_closes", "translates"):
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "True or False")
        _whole("silence_s", self.silence_s, 1, 60)
        _whole("pool_size", self.pool_size, 1, 16)
        _whole("port_delta", self.port_delta, -65535, 65535)
        _whole("block_size", self.block_size, 1, 65535)
        if not isinstance(self.port_range, tuple | list) or len(self.port_range) != 2:
            raise _refused("port_range", self.port_range, "two ports: first and last")
        taken["port_range"] = tuple(_whole("port_range", port, 1, 65535) for port in self.port_range)
        if isinstance(self.timeouts, ReadOnlyDict):
            names = [each.name for each in fields(Timeouts)]
            for name in self.timeouts:
                if name not in names:
                    raise _refused("timeouts", name, one_of(name, names))
            taken["timeouts"] = Timeouts(**self.timeouts)
        elif not isinstance(self.timeouts, Timeouts):
            raise _refused("timeouts", self.timeouts, "Timeouts")
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def _check_ports(self) -> None:
        first, last = self.port_range
        if not 1 <= first <= last <= 65535:
            raise BehaviorError(f"port_range: {first}-{last}; expected two ports in order, from 1 to 65535")
        if self.on_clash not in (PortAllocation.RANDOM, PortAllocation.SEQUENTIAL):
            raise BehaviorError(f"on_clash: {self.on_clash} is not supported; expected random or sequential")
        if self.port_allocation is not PortAllocation.PRESERVING and self.on_clash is not PortAllocation.RANDOM:
            raise BehaviorError(
                f"on_clash: {self.on_clash} has no effect with port_allocation {self.port_allocation}; "
                f"expected port_allocation {PortAllocation.PRESERVING}"
            )
        if self.port_delta == 0:
            raise BehaviorError("port_delta: 0 would allocate one port only; expected a positive or negative step")
        if self.port_delta != 1 and not self.sequential:
            raise BehaviorError(
                f"port_delta: {self.port_delta} has no effect with port_allocation {self.port_allocation}; "
                f"expected port_allocation {PortAllocation.SEQUENTIAL}"
            )
        if self.port_allocation is PortAllocation.BLOCKS and not 1 <= self.block_size <= min(last - first + 1, 16384):
            raise BehaviorError(
                f"block_size: {self.block_size} ports with port_range {first}-{last}; "
                f"expected 1 to {min(last - first + 1, 16384)}"
            )

    def _check_overloading(self) -> None:
        if not self.port_overloading:
            return
        if self.filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
            raise BehaviorError(
                f"port_overloading: with {self.filtering} filtering, a packet could belong to any of the hosts that "
                f"share the port; expected filtering {FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT}"
            )
        if self.hairpinning is not Hairpinning.NONE:
            raise BehaviorError(
                f"port_overloading: with {self.hairpinning} hairpinning, a packet could belong to any of the hosts "
                f"that share the port; expected hairpinning {Hairpinning.NONE}"
            )
        if self.destination_dependent and self.port_allocation is PortAllocation.PRESERVING:
            raise BehaviorError(
                f"port_overloading: with {self.mapping} mapping and port_allocation {self.port_allocation}, every "
                "destination sees the same port, so that the mapping looks endpoint-independent; "
                f"expected port_allocation {PortAllocation.RANDOM}"
            )
        built = {
            (MappingBehavior.ENDPOINT_INDEPENDENT, PortAllocation.PRESERVING),
            (MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.RANDOM),
        }
        if (self.mapping, self.port_allocation) not in built or self.on_clash is not PortAllocation.RANDOM:
            raise BehaviorError(
                f"port_overloading: {self.mapping} mapping and port_allocation {self.port_allocation} cannot be "
                "distinguished from chance; expected endpoint-independent mapping that preserves ports, or "
                "address-and-port-dependent mapping with random ports"
            )

    def _check_memory(self) -> None:
        if self.silence_s != REQ_4_SILENCE_S and self.unsolicited is not Unsolicited.SILENT_THEN_ICMP:
            raise BehaviorError(
                f"silence_s: {self.silence_s} has no effect with unsolicited {self.unsolicited}; "
                f"expected unsolicited {Unsolicited.SILENT_THEN_ICMP}"
            )
        if not self.reset_closes and self.filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
            raise BehaviorError(
                f"reset_closes: False has no effect with filtering {self.filtering}, because its pinholes belong to "
                f"the mapping and survive RSTs; expected filtering {FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT}"
            )
        # In connection tracking, every RST closes and every packet refreshes. Anything else needs state per mapping,
        # which neither an overloading NAT nor a firewall has.
        if self.port_overloading and not self.reset_closes:
            raise BehaviorError(
                "port_overloading: with reset_closes False, a packet could belong to any of the hosts that share the "
                "port; expected reset_closes True"
            )
        for name, without_memory in (("port_overloading", self.port_overloading), ("translates", not self.translates)):
            if without_memory and self.refresh is not Refresh.BOTH:
                raise BehaviorError(
                    f"refresh: {self.refresh} is not supported with {name} {getattr(self, name)}, because there is "
                    f"only connection tracking, which both directions refresh; expected refresh {Refresh.BOTH}"
                )
        if self.port_mapping is not PortMapping.NONE and self.refresh is not Refresh.BOTH:
            raise BehaviorError(
                f"refresh: {self.refresh} is not supported with port_mapping {self.port_mapping}, because a requested "
                f"mapping needs no outbound packets; expected refresh {Refresh.BOTH}"
            )

    def _check_firewall(self) -> None:
        plain = {
            "mapping": MappingBehavior.ENDPOINT_INDEPENDENT,
            "port_allocation": PortAllocation.PRESERVING,
            "on_clash": PortAllocation.RANDOM,
            "port_overloading": False,
            "pool_size": 1,
            "hairpinning": Hairpinning.NONE,
            "port_mapping": PortMapping.NONE,
        }
        for name, expected in plain.items():
            value = getattr(self, name)
            if value != expected:
                raise BehaviorError(f"{name}: {value} has no effect with translates False; expected {expected}")
