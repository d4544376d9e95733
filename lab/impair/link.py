"""The input of an implementation (directed links) and its result (a handle with counters)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from punchlab.lab.impair.impairment import Impairment
from punchlab.lab.kernel.namespace import Namespace


@dataclass(frozen=True)
class LinkEnd:
    """One end of a veth pair: name and index of the interface in its namespace.

    `kind` is that of the node. It determines where packets are held: "router" (forwards without connection tracking),
    "nat" (tracks connections), "switch" (the interface is a bridge port, so IP hooks do not see its packets), or an
    endpoint: "host", "edge".
    """

    namespace: Namespace
    interface: str
    index: int
    kind: str = "host"


@dataclass(frozen=True)
class DirectedLink:
    """One direction of a veth pair."""

    sender: LinkEnd
    receiver: LinkEnd
    impairment: Impairment

    def __str__(self) -> str:
        return f"{self.sender.interface} -> {self.receiver.interface}"


@dataclass(frozen=True)
class Counters:
    """The counters of one directed link.

    `packets`: incoming packets. `dropped`: lost packets, including `overflowed`: those that arrived while the link held
    its limit. `overflowed` is None if the implementation cannot distinguish it from loss. Lateness: seconds between due
    time and release, None if it is not measured.
    """

    packets: int
    dropped: int
    overflowed: int | None
    lateness_median_s: float | None = None
    lateness_worst_s: float | None = None


class Applied(ABC):
    """The impaired links of one lab. The context manager closes them.

    `name`: the implementation, for the record: "netem", "nfqueue", or "none" when no link is impaired.
    """

    name: str

    @abstractmethod
    def counters(self) -> Sequence[Counters | None]:
        """Return counters for each link passed to `apply`, None for links without impairment. After `close`: the last
        ones.

        Raises `LabError` if the implementation has failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all held packets and resources. Call it while the namespaces are open; then do not use the links.

        Raises `LabError` if the implementation has failed.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NotNeeded(Applied):
    """The result of `apply` if no link is impaired."""

    name = "none"

    def __init__(self, links: int) -> None:
        self._links = links

    def counters(self) -> Sequence[None]:
        """See `Applied.counters`."""
        return [None] * self._links

    def close(self) -> None:
        """See `Applied.close`."""


class Implementation(Protocol):
    """A way to impair links."""

    name: str

    def why_not(self) -> str | None:
        """Return why it does not work on this machine and how to get it, or None if it works."""

    def apply(self, links: Sequence[DirectedLink], seed: int) -> Applied:
        """Impair the links, in force on return. Raises `LabError` if the kernel rejects a request."""
