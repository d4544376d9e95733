"""The story of a trial's SYNs, as data, told from nothing but its frames.

- A *segment* (`segment`) is one TCP segment or ICMP error from the node that sent it to the node where it ended, with
  every interface that it passed and every address that a NAT gave it.
- The *exchange* (`story`) is what the segments between two hosts amount to: who sent SYN when, what each NAT translated
  it to, whether the SYNs crossed, who refused one, where one vanished, which connection lived and by which way it went.
- The *delivery* (`proof`) is how many bytes of the file went directly and how many through edges; `payload` counts.
- `timeline` is the same in words, one line per event.
- `bounds` says how many packets are analysed at most, and why the time that it takes is bounded.

Nothing here does input or output, and nothing needs scapy.
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
