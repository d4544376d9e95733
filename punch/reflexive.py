"""The IPv6 reflexive address of a client that registers over IPv4.

An edge gives a peer only addresses at which it has seen the client itself. So the client connects a second time, from
the IPv6 address and port that it will punch from:

1. The edge answers the client's first WebSocket request, over IPv4, with the header field `HEADER`: its IPv6 endpoint.
   Certificate and name of the edge are the same there.
2. The client opens a WebSocket to that endpoint, at `PATH`, and receives `seen {public, proof}`: its IPv6 endpoint, and
   a proof that this edge has seen it. There are no further frames.
3. The client registers with `public6` and `proof6`, and the edge gives `public6` to the peer in addition to `public`.

The proof is a MAC with a key that the edge generates at its start. Only the host at that address receives it. It
contains the time of its creation, and is valid as long as a client may wait for its peer. All this happens before the
registration, so that the peer never has to wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.fields import IPV6_ENDPOINT, TOKEN

PATH = "/sighting"
HEADER = "Punch-IPv6"


@dataclass(frozen=True)
class Seen:
    """The IPv6 endpoint at which the edge sees the client, and the proof of it."""

    TYPE: ClassVar[str] = "seen"

    public: Annotated[Endpoint, IPV6_ENDPOINT]
    proof: Annotated[str, TOKEN]
