"""Limits of the analysis, so that a client cannot exhaust the CPU of the lab with its packets.

The analysis takes time proportional to the number of frames (n log n where it sorts), for any frames. There is one
exception: if a NAT maps one flow to several ports in turn, each segment of the flow belongs to several connections.
Therefore the total number of segments of all connections has its own limit.

Honest clients stay far below the limits. `birthday`, the strategy that sends the most SYNs, causes about 20,000 frames
in `ab` if each SYN is answered by an ICMP error.
"""

from __future__ import annotations

MOST_FRAMES = 250_000
"""Maximum number of frames with a TCP segment or an ICMP error, at all capture points together."""

MOST_MEMBERS = 4 * MOST_FRAMES
"""Maximum number of segments. A segment counts once per connection, and once per host that sent or received it."""


class ExcessiveError(Exception):
    """The capture exceeds a limit of the analysis; the message names the limit."""
