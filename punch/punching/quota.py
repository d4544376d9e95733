"""How much a client sends to addresses that it only knows from its edge.

An edge can name any address as the peer's, so that its clients send packets there, until the peer has proved to be
there. A client cannot tell, so it counts what it sends; the limits leave room for what an honest meeting needs. One
`Quota` serves a session with all its meetings: those after a tunnel broke, too.

What is counted does not depend on what became of a connect: a dial is charged with all the connects that it may make
before it makes the first. So an edge learns nothing from where a quota ends.
"""

from __future__ import annotations

from collections import Counter

from punchlab.punch.nat.birthday import PROBES
from punchlab.punch.punching.candidates import Candidate

CONNECTS = 120
"""To one endpoint in one meeting. A connect that is refused is made again ten times a second, for 10 s by default."""
PREDICTED_CONNECTS = 24
"""To one port that the peer has foretold, which its own dials have passed after two seconds."""

MEETING_ADDRESSES = 4
"""IP addresses in one meeting: the public one of either family, and two that the peer has itself."""
MEETING_CONNECTS = 3 * PROBES
"""In one meeting: the guesses of the strategy `birthday`, or the ports foretold by `predict`, and all others."""
MEETING_DATAGRAMS = 20
"""In one meeting: those of the strategy `lowttl`, empty, which count the routers on the way to the peer."""

SESSION_ADDRESSES = 8
SESSION_CONNECTS = 2 * MEETING_CONNECTS
SESSION_DATAGRAMS = 5 * MEETING_DATAGRAMS
"""The same in a session, but for the addresses at which the peer has been found."""

SERVERS = 4
"""Addresses in a session at which an edge says that there are STUN servers; so many for IPv6, and for relays, too."""
SERVER_USES = 2
"""How often in a session such an address is tried that has not answered as what it is said to be."""
SERVER_USES_ANSWERED = 100
"""How often in a session one is used that has."""


class Servers:
    """Addresses at which an edge says that it is as well, for one purpose."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._answered: set[str] = set()

    def take(self, ip: str) -> bool:
        """Whether the address may be used once more."""
        if ip not in self._uses and len(self._uses) >= SERVERS:
            return False
        if self._uses[ip] >= (SERVER_USES_ANSWERED if ip in self._answered else SERVER_USES):
            return False
        self._uses[ip] += 1
        return True

    def answered(self, ip: str) -> None:
        """It has answered as what it was said to be."""
        self._answered.add(ip)


class Quota:
    """What is left of one session. `stun`, `ipv6` and `relays` are of the servers that an edge names."""

    def __init__(self) -> None:
        self.stun, self.ipv6, self.relays = Servers(), Servers(), Servers()
        self._connects: Counter[str] = Counter()
        self._datagrams: Counter[str] = Counter()
        self._proved: set[str] = set()
        self.begin_meeting()

    def begin_meeting(self) -> None:
        """From now on it is another meeting."""
        self._meeting: Counter[str] = Counter()
        self._endpoints: Counter[Candidate] = Counter()
        self._meeting_datagrams = 0

    def connects(self, target: Candidate, wanted: int | None) -> int:
        """How many connects a dial may make, of those that it wants (None: as many as it may); they are charged."""
        ip = target.address.ip
        used = self._session(self._connects)
        granted = min(
            CONNECTS if wanted is None else wanted,
            self._left_at(target),
            MEETING_CONNECTS - self._meeting.total(),
            SESSION_CONNECTS - used.total() if ip not in self._proved else MEETING_CONNECTS,
        )
        if granted <= 0 or not self._takes_address(ip, used):
            return 0
        self._meeting[ip] += granted
        self._endpoints[target] += granted
        self._connects[ip] += granted
        return granted

    def datagrams(self, ip: str, count: int) -> bool:
        """Whether so many datagrams may be sent to the address; they are charged."""
        left = SESSION_DATAGRAMS - self._session(self._datagrams).total() if ip not in self._proved else count
        if count > min(left, MEETING_DATAGRAMS - self._meeting_datagrams):
            return False
        if not self._takes_address(ip, self._session(self._connects)):
            return False
        self._meeting[ip] += 0  # counts as an address
        self._connects[ip] += 0
        self._meeting_datagrams += count
        self._datagrams[ip] += count
        return True

    def prove(self, ip: str) -> None:
        """The peer has been found at this address, which is therefore no stranger's."""
        self._proved.add(ip)

    def _left_at(self, target: Candidate) -> int:
        """How many connects more one endpoint may get. Guesses are limited by their number, not by their endpoint."""
        if target.kind == "guess":
            return PROBES
        return (PREDICTED_CONNECTS if target.kind == "predicted" else CONNECTS) - self._endpoints[target]

    def _session(self, counter: Counter[str]) -> Counter[str]:
        return Counter({ip: count for ip, count in counter.items() if ip not in self._proved})

    def _takes_address(self, ip: str, used: Counter[str]) -> bool:
        if ip not in self._meeting and len(self._meeting) >= MEETING_ADDRESSES:
            return False
        return ip in self._proved or ip in used or len(used) < SESSION_ADDRESSES
