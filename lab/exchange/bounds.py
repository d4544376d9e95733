"""How much of a recording is analysed at most, so that a client cannot keep the lab busy with its packets.

The time and the memory of the analysis are proportional to the number of frames (n log n where it sorts), for any
frames. The exception is by definition: a segment can belong to many connections, if a NAT gives one flow one port after
another; so their segments are bounded as well. Honest clients stay far below both bounds: a client that tries 4096
ports makes some 50,000 frames.
"""

from __future__ import annotations

MOST_FRAMES = 250_000
"""Frames of segments and ICMP errors, at all capture points together."""

MOST_MEMBERS = 4 * MOST_FRAMES
"""Segments of connections: each counts once per connection and host."""


class ExcessiveError(Exception):
    """There is more to analyse than the bounds allow; the text says which of them."""
