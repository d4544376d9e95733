"""What an implementation is given (directed links) and what it gives back (a handle with counters)."""

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
    """One end of a veth pair: its interface's name and index in its namespace.

    `kind` is that of its node, and matters to where packets are held: "router" (forwards, tracks no connections),
    "nat" (tracks connections), "switch" (the interface is a bridge port, so no IP hook sees its packets), or an
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
    """What one directed link did so far.

    `packets`: those that came in. `dropped`: those that did not come out, `overflowed` among them: came while the link
    held its limit. `overflowed` is None where the implementation cannot tell it from loss. Lateness: how long after
    its due time a packet was let go, in seconds; None where nobody measures it.
    """

    packets: int
    dropped: int
    overflowed: int | None
    lateness_median_s: float | None = None
    lateness_worst_s: float | None = None


class Applied(ABC):
    """The links of one lab under impairment. A context manager: leaving it closes.

    `name`: the implementation, for the record: "netem", "nfqueue", or "none" when no link is impaired.
    """

    name: str

    @abstractmethod
    def counters(self) -> Sequence[Counters | None]:
        """One per link as given to `apply`, None for links without impairment; after `close`, the last ones.

        Raises `LabError` when the implementation broke meanwhile.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of every packet held and every resource; to be done while the namespaces are open.

        The links are not to be used afterwards. Raises `LabError` when the implementation broke meanwhile.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NotNeeded(Applied):
    """What `apply` gives where no link is impaired."""

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
        """What keeps this machine from it, and how to get it; None when nothing does."""

    def apply(self, links: Sequence[DirectedLink], seed: int) -> Applied:
        """Impair the links, in force on return. Raises `LabError` when the kernel refuses."""
