"""What a NAT does, in the vocabulary of RFC 4787 (UDP) and RFC 5382 (TCP).

A behavior says *what* is observed from outside; how a Linux box is made to do it is `lab.nat.rules`, and which famous
names stand for which behaviors is `lab.nat.presets`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TypeVar

from punchlab.punch.text import shown


class BehaviorError(ValueError):
    """A value that a field cannot have, or a combination of behaviors that no NAT can have or that this project cannot
    tell apart from another one. The text is one line that names the field, the value and what was expected.
    """


def _refused(name: str, value: object, expected: str) -> BehaviorError:
    return BehaviorError(f"{name}: {shown(value)} cannot be used; expected {expected}")


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _refused(name, value, f"a whole number from {least} to {most}")


_Kind = TypeVar("_Kind", bound=StrEnum)


def _member(name: str, value: object, kind: type[_Kind]) -> _Kind:
    """The member of the enumeration that the value is, or that a plain string names."""
    names = [str(each) for each in kind]
    if isinstance(value, str) and value in names:
        return kind(value)
    near = difflib.get_close_matches(value.lower().replace("_", "-"), names, 1) if isinstance(value, str) else []
    raise _refused(name, value, f"one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else ""))


class MappingBehavior(StrEnum):
    """On what the external endpoint of an inside endpoint depends (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class FilteringBehavior(StrEnum):
    """Which outside endpoints may answer through a mapping (RFC 4787 section 5).

    It is asked of the mapping that a packet arrives at: what the same host has contacted through another mapping does
    not count, as in RFC 3489's symmetric NAT.
    """

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAllocation(StrEnum):
    """How the external port of a new mapping is chosen (RFC 4787 section 4.2).

    `preserving` keeps the inside port if no other mapping has it, and allocates as `NatBehavior.on_clash` says if one
    does; so where the mapping depends on the destination, the first destination keeps the port and others do not.
    `blocks` gives every inside host a block of `block_size` ports and draws from it at random.
    """

    PRESERVING = "preserving"
    RANDOM = "random"
    SEQUENTIAL = "sequential"
    BLOCKS = "blocks"


class Pooling(StrEnum):
    """Whether all mappings of an inside host have one external address (RFC 4787 section 4.1, REQ-2)."""

    PAIRED = "paired"
    ARBITRARY = "arbitrary"


class Hairpinning(StrEnum):
    """What becomes of a packet from an inside host to the external endpoint of another (RFC 4787 section 6).

    The filtering is not asked. With `internal-source` the receiver sees a private address, and its answers go there
    directly, so that a TCP connection fails: the RFCs want `external-source`.
    """

    NONE = "none"
    EXTERNAL_SOURCE = "external-source"
    INTERNAL_SOURCE = "internal-source"


class Unsolicited(StrEnum):
    """The answer to a SYN that no mapping and filter admits (RFC 5382 section 4.3). UDP is dropped in every case."""

    DROP = "drop"
    RESET = "reset"
    PORT_UNREACHABLE = "port-unreachable"
    """ICMP type 3, code 3."""
    HOST_PROHIBITED = "host-prohibited"
    """ICMP type 3, code 10."""
    ADMIN_PROHIBITED = "admin-prohibited"
    """ICMP type 3, code 13."""
    SILENT_THEN_ICMP = "silent-then-icmp"
    """REQ-4: nothing for `NatBehavior.silence_s`, then ICMP type 3, code 3; nothing at all if a SYN of the same
    connection goes out in the meantime, which is a simultaneous open."""

    @property
    def icmp_code(self) -> int | None:
        """The code of the ICMP Destination Unreachable that is the answer; None for an answer of another kind."""
        codes = {"port-unreachable": 3, "host-prohibited": 10, "admin-prohibited": 13, "silent-then-icmp": 3}
        return codes.get(self.value)


class IcmpErrors(StrEnum):
    """What becomes of an ICMP error from outside that is about a mapping's packet (RFC 5382 REQ-9)."""

    TRANSLATED = "translated"
    SWALLOWED = "swallowed"


class PortMapping(StrEnum):
    """By which protocols an inside host may ask for a mapping that lets everybody in."""

    NONE = "none"
    UPNP_IGD = "upnp-igd"
    """UPnP Internet Gateway Device."""
    PCP = "pcp"
    """RFC 6887, and on the same port its predecessor NAT-PMP (RFC 6886)."""
    ALL = "all"


class Refresh(StrEnum):
    """Which packets keep a mapping from being forgotten (RFC 4787 section 4.3, REQ-6): only those from inside, or all.

    This is about UDP mappings and established TCP connections. With `outbound` a remote host that keeps on sending to
    an inside host that has fallen silent is cut off.
    """

    OUTBOUND = "outbound"
    BOTH = "both"


LONGEST_TIMEOUT_S = 2_000_000
"""About 23 days; the kernel counts a little further."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Whole seconds of idleness after which a state is forgotten. The defaults are the least that the RFCs allow.

    Raises `BehaviorError` for a number that is not whole or not from 1 to `LONGEST_TIMEOUT_S`.

    TCP (RFC 5382 REQ-5): `tcp_transitory_s` until the handshake is complete, `tcp_established_s`, `tcp_closing_s` after
    a FIN. UDP (RFC 4787 REQ-5): `udp_solitary_s` until traffic has gone both ways for a while, `udp_stream_s` then.
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
"""The fields of a behavior that are members of an enumeration."""

REQ_4_SILENCE_S = 6
"""How long a NAT may not answer an unsolicited SYN (RFC 5382 REQ-4)."""


@dataclass(frozen=True, slots=True)
class NatBehavior:
    """One NAT, as seen from outside. Raises `BehaviorError` for a value or a combination that cannot be built.

    A plain string that is the value of an enumeration stands for its member, a list of two for `port_range`, and a
    dictionary of fields for `timeouts`, as TOML and JSON have them.

    `port_range` (first and last) bounds what is allocated other than by preservation, `port_delta` is the step of
    sequential allocation (negative: downwards). `port_overloading` lets inside hosts share an external port towards
    different destinations (RFC 4787 REQ-3 forbids it; Linux's MASQUERADE does it). `pool_size` counts external
    addresses. A behavior that does not translate is a plain stateful firewall: hosts behind it have public addresses.

    `reset_closes` says whether a RST, from inside or from outside, shuts the door that its connection opened, as
    connection tracking does; if not, the remote endpoint may still come in until the mapping is idle for its time.
    Filtering wider than address-and-port-dependent has doors that belong to the mapping, which no RST shuts. In every
    case the mapping keeps its external port. `refresh` says which packets count against the timeouts.
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
            raise BehaviorError(f"pooling: {self.pooling} with pool_size 1 cannot be seen; expected {Pooling.PAIRED}")
        self._check_memory()
        if not self.translates:
            self._check_firewall()

    @property
    def destination_dependent(self) -> bool:
        """Whether another destination may see another external endpoint."""
        return self.mapping is not MappingBehavior.ENDPOINT_INDEPENDENT

    @property
    def sequential(self) -> bool:
        """Whether some ports are allocated one after the other."""
        preserving = self.port_allocation is PortAllocation.PRESERVING
        return (self.on_clash if preserving else self.port_allocation) is PortAllocation.SEQUENTIAL

    def _take_values(self) -> None:
        """Every field is of its type afterwards; the numbers are in the ranges that need no other field."""
        taken: dict[str, object] = {name: _member(name, getattr(self, name), kind) for name, kind in _KINDS.items()}
        for name in ("port_overloading", "reset_closes", "translates"):
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "True or False")
        _whole("silence_s", self.silence_s, 1, 60)
        _whole("pool_size", self.pool_size, 1, 16)
        _whole("port_delta", self.port_delta, -65535, 65535)
        _whole("block_size", self.block_size, 1, 65535)
        if not isinstance(self.port_range, tuple | list) or len(self.port_range) != 2:
            raise _refused("port_range", self.port_range, "two ports, the first and the last")
        taken["port_range"] = tuple(_whole("port_range", port, 1, 65535) for port in self.port_range)
        if isinstance(self.timeouts, ReadOnlyDict):
            names = [each.name for each in fields(Timeouts)]
            for name in self.timeouts:
                if name not in names:
                    raise _refused("timeouts", name, f"one of {', '.join(names)}")
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
            raise BehaviorError(f"on_clash: {self.on_clash} cannot be; expected random or sequential")
        if self.port_allocation is not PortAllocation.PRESERVING and self.on_clash is not PortAllocation.RANDOM:
            raise BehaviorError(
                f"on_clash: {self.on_clash} with port_allocation {self.port_allocation}, which knows no clashes; "
                f"expected port_allocation {PortAllocation.PRESERVING}"
            )
        if self.port_delta == 0:
            raise BehaviorError("port_delta: 0 allocates the same port for ever; expected a step up or down")
        if self.port_delta != 1 and not self.sequential:
            raise BehaviorError(
                f"port_delta: {self.port_delta} with port_allocation {self.port_allocation} means nothing; "
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
                f"port_overloading: with {self.filtering} filtering a packet may be for either host that shares the "
                f"port; expected filtering {FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT}"
            )
        if self.hairpinning is not Hairpinning.NONE:
            raise BehaviorError(
                f"port_overloading: with {self.hairpinning} hairpinning a packet may be for either host that shares "
                f"the port; expected hairpinning {Hairpinning.NONE}"
            )
        if self.destination_dependent and self.port_allocation is PortAllocation.PRESERVING:
            raise BehaviorError(
                f"port_overloading: with {self.mapping} mapping and port_allocation {self.port_allocation} every "
                "destination sees the same port, so the mapping looks endpoint-independent from outside; "
                f"expected port_allocation {PortAllocation.RANDOM}"
            )
        built = {
            (MappingBehavior.ENDPOINT_INDEPENDENT, PortAllocation.PRESERVING),
            (MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.RANDOM),
        }
        if (self.mapping, self.port_allocation) not in built or self.on_clash is not PortAllocation.RANDOM:
            raise BehaviorError(
                f"port_overloading: with {self.mapping} mapping and port_allocation {self.port_allocation} it could "
                "not be told from chance; expected endpoint-independent mapping that preserves ports, or "
                "address-and-port-dependent mapping with random ones"
            )

    def _check_memory(self) -> None:
        if self.silence_s != REQ_4_SILENCE_S and self.unsolicited is not Unsolicited.SILENT_THEN_ICMP:
            raise BehaviorError(
                f"silence_s: {self.silence_s} with unsolicited {self.unsolicited} means nothing; "
                f"expected unsolicited {Unsolicited.SILENT_THEN_ICMP}"
            )
        if not self.reset_closes and self.filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
            raise BehaviorError(
                f"reset_closes: False with filtering {self.filtering} cannot be seen: its doors belong to the mapping, "
                f"which no RST closes; expected filtering {FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT}"
            )
        # Connection tracking itself lets every RST close, and every packet refresh. Anything else is the memory of
        # mappings, which an overloading NAT does without, and a firewall too.
        if self.port_overloading and not self.reset_closes:
            raise BehaviorError(
                "port_overloading: with reset_closes False a packet may be for either host that shares the port; "
                "expected reset_closes True"
            )
        for name, without_memory in (("port_overloading", self.port_overloading), ("translates", not self.translates)):
            if without_memory and self.refresh is not Refresh.BOTH:
                raise BehaviorError(
                    f"refresh: {self.refresh} with {name} {getattr(self, name)}: there are only connections to keep, "
                    f"and packets of both directions keep those; expected refresh {Refresh.BOTH}"
                )
        if self.port_mapping is not PortMapping.NONE and self.refresh is not Refresh.BOTH:
            raise BehaviorError(
                f"refresh: {self.refresh} with port_mapping {self.port_mapping}: a mapping that was asked for lives "
                f"without packets from inside; expected refresh {Refresh.BOTH}"
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
                raise BehaviorError(f"translates: False with {name} {value}: nothing is mapped; expected {expected}")
