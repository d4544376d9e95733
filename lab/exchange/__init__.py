"""Reconstruct the TCP exchange of a trial from its captured frames.

- `segment` follows one TCP segment or ICMP error from its sender to the node where it ended. It records each interface
  that the segment crosses and each address that a NAT translates it to.
- `connection` groups the segments into TCP connections.
- `story` describes the exchange of two hosts: the SYNs that each host sent, their translations, whether they crossed,
  which of them were rejected or dropped, and which connection was used.
- `proof` counts the bytes of the file that were sent directly and through edges; `payload` counts per connection.
- `timeline` prints the exchange, one line per event.
- `bounds` limits the number of analyzed packets, and thus the time.

These modules do no input or output and do not need scapy.
"""

from punchlab.lab.exchange.bounds import ExcessiveError
from punchlab.lab.exchange.connection import Connection
from punchlab.lab.exchange.pair import HostPair, HostSide
from punchlab.lab.exchange.proof import Delivery, delivery
from punchlab.lab.exchange.segment import Hop, Segment, Translation, follow
from punchlab.lab.exchange.story import Exchange
from punchlab.lab.exchange.wire import Kind

__all__ = [
    "Connection",
    "Delivery",
    "ExcessiveError",
    "Exchange",
    "Hop",
    "HostPair",
    "HostSide",
    "Kind",
    "Segment",
    "Translation",
    "delivery",
    "follow",
]
