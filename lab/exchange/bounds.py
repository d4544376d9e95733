"""How much of a recording is analysed at most, so that a client cannot keep the lab busy with its packets.

The time that the analysis takes is proportional to the number of frames (n log n where it sorts), for any frames. One
thing is not proportional by its definition: if a NAT gives one flow several ports in turn, a segment of it belongs to
several connections. So the segments of all connections together have a bound as well.

Honest clients stay far below the bounds: `birthday`, the strategy that dials most, makes some 20,000 frames in `ab` if
an ICMP error answers each of its SYNs.
"""

from __future__ import annotations

MOST_FRAMES = 250_000
"""Frames with a segment or an ICMP error, at all capture points together."""

MOST_MEMBERS = 4 * MOST_FRAMES
"""Segments of connections; a segment counts for each connection, and for each of the two hosts that saw it."""


class ExcessiveError(Exception):
    """There is more to analyse than the bounds allow; the text names the bound."""
