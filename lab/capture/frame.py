"""What a capture is made of: frames with kernel timestamps, and the recording that holds those of one trial."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from punchlab.lab.kernel.namespace import Namespace

if TYPE_CHECKING:
    from scapy.layers.l2 import Ether


@dataclass(frozen=True, slots=True)
class CapturePoint:
    """One interface to listen on. Interface names are unique in a lab and become the names in the pcapng.

    With `udp` every UDP datagram is recorded as well, its headers only.
    """

    namespace: Namespace
    node: str
    interface: str
    udp: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame as one interface saw it."""

    time_ns: int
    """When the kernel saw it, in nanoseconds of CLOCK_REALTIME."""
    node: str
    interface: str
    outgoing: bool
    """True when the node sent or forwarded the frame out of the interface, false when it came in."""
    data: bytes
    """The frame from its Ethernet header on; its first `SNAP_LENGTH` bytes, or `UDP_SNAP_LENGTH` of UDP."""
    length: int
    """Bytes that the frame had."""

    @property
    def packet(self) -> Ether:
        """The frame dissected by scapy (0.1 ms, every time), with its time and the interface in `sniffed_on`."""
        import scapy.layers.inet  # noqa: F401  -- binds IP, TCP and ICMP to Ether
        from scapy.layers.l2 import Ether

        packet = Ether(self.data)
        packet.time, packet.sniffed_on, packet.wirelen = self.time_ns / 1e9, self.interface, self.length
        return packet


SNAP_LENGTH = 2048
"""Bytes kept of a frame: all of a packet that fits an Ethernet, the start of a segment that an interface will split."""

UDP_SNAP_LENGTH = 128
"""Bytes kept of a UDP datagram that is recorded for its length: the headers, and the start of the payload."""


@dataclass(frozen=True)
class Recording:
    """The frames of a trial from all its capture points, in the order of their kernel timestamps."""

    frames: tuple[Frame, ...]
    interfaces: tuple[str, ...]
    """Every interface that was listened on, whether or not a frame crossed it."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Interface -> frames that the kernel had to drop because its buffer was full. Empty when nothing is missing."""
    clock_offset_ns: int = 0
    """CLOCK_REALTIME minus CLOCK_MONOTONIC when the capture began."""
    excessive: bool = False
    """Whether it ended early, for there was too much to record."""

    @property
    def complete(self) -> bool:
        """Whether every frame that passed the filter is here. An argument from silence needs a complete recording."""
        return not self.drops and not self.excessive

    def monotonic(self, time_ns: int) -> float:
        """A frame's time as `time.monotonic()` seconds, the clock of the clients' events."""
        return (time_ns - self.clock_offset_ns) / 1e9

    def between(self, start: float | None = None, end: float | None = None) -> Recording:
        """The part from `start` until before `end`, both in `time.monotonic()` seconds; None leaves that side open."""
        times = [frame.time_ns for frame in self.frames]
        low = 0 if start is None else bisect_left(times, round(start * 1e9) + self.clock_offset_ns)
        high = len(times) if end is None else bisect_left(times, round(end * 1e9) + self.clock_offset_ns)
        return replace(self, frames=self.frames[low:high])
