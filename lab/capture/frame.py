"""Captured frames with kernel timestamps, and the recording of one trial."""

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
    """An interface to capture on. Interface names are unique in a lab and are used in the pcapng file.

    `udp` also records the headers of every UDP datagram.
    """

    namespace: Namespace
    node: str
    interface: str
    udp: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame at one interface."""

    time_ns: int
    """The kernel's timestamp, in nanoseconds of CLOCK_REALTIME."""
    node: str
    interface: str
    outgoing: bool
    """True if the node sent or forwarded the frame out of the interface, False if it received the frame."""
    data: bytes
    """The frame with its Ethernet header: its first `SNAP_LENGTH` bytes, or `UDP_SNAP_LENGTH` for UDP."""
    length: int
    """The original length of the frame in bytes."""

    @property
    def packet(self) -> Ether:
        """Return the frame dissected by scapy (0.1 ms per call), with its time and with the interface in
        `sniffed_on`.
        """
        import scapy.layers.inet  # noqa: F401  -- binds IP, TCP and ICMP to Ether
        from scapy.layers.l2 import Ether

        packet = Ether(self.data)
        packet.time, packet.sniffed_on, packet.wirelen = self.time_ns / 1e9, self.interface, self.length
        return packet


SNAP_LENGTH = 2048
"""The bytes kept of a frame: a complete packet of Ethernet size, or the start of a segment that an interface will
split.
"""

UDP_SNAP_LENGTH = 128
"""The bytes kept of a UDP datagram, of which the length is recorded: the headers and the start of the payload."""


@dataclass(frozen=True)
class Recording:
    """The frames of a trial from all capture points, in the order of their kernel timestamps."""

    frames: tuple[Frame, ...]
    interfaces: tuple[str, ...]
    """All captured interfaces, including those without frames."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Interface -> number of frames that the kernel dropped because its buffer was full. Empty if none is missing."""
    clock_offset_ns: int = 0
    """CLOCK_REALTIME minus CLOCK_MONOTONIC at the start of the capture."""
    excessive: bool = False
    """Whether the capture ended early because of its memory limit."""

    @property
    def complete(self) -> bool:
        """Whether no frame that passed the filter is missing. The absence of a packet is proved only by a complete
        recording.
        """
        return not self.drops and not self.excessive

    def monotonic(self, time_ns: int) -> float:
        """Return a frame's time as `time.monotonic()` seconds, the clock of the clients' events."""
        return (time_ns - self.clock_offset_ns) / 1e9

    def between(self, start: float | None = None, end: float | None = None) -> Recording:
        """Return the frames from `start` until before `end`, in `time.monotonic()` seconds. None means no limit."""
        times = [frame.time_ns for frame in self.frames]
        low = 0 if start is None else bisect_left(times, round(start * 1e9) + self.clock_offset_ns)
        high = len(times) if end is None else bisect_left(times, round(end * 1e9) + self.clock_offset_ns)
        return replace(self, frames=self.frames[low:high])
