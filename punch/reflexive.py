"""How a client at an IPv4 address shows an edge the IPv6 address that it has as well.

An edge hands out only addresses at which it has seen a client itself. So the client connects a second time, from the
IPv6 address and port that it is going to punch from:

1. The edge answers the client's first WebSocket request, which came over IPv4, with the header field `HEADER`: where it
   listens on IPv6 (an endpoint). The certificate and the name of the edge are those of the URL there, too.
2. The client opens a WebSocket there, at `PATH`, and hears `seen {public, proof}`: its address, and a proof that this
   edge has seen it there. No more is said.
3. It registers with `public6` and `proof6`, and the edge hands out `public6` beside `public`.

The proof is made by a key that the edge draws when it starts, and is told to nobody but whoever is at that address; it
says when it was made, and is good as long as a client may wait for its peer. All of this comes before the registration,
so that the peer never has to wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.fields import decode, encode, ipv6_field, token_field

PATH = "/sighting"
HEADER = "Punch-IPv6"


@dataclass(frozen=True)
class Seen:
    """The edge has seen a client at `public`, an IPv6 endpoint, and this is the proof of it."""

    public: Endpoint
    proof: str


def seen_frame(seen: Seen) -> str:
    """`seen` as text."""
    return encode("seen", {"public": str(seen.public), "proof": seen.proof})


def parse_seen(frame: str | bytes) -> Seen:
    """What an edge says at `PATH`. Raises `FrameError`."""
    _, fields = decode(frame, "seen")
    return Seen(ipv6_field(fields, "public"), token_field(fields, "proof"))
