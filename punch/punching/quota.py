"""Limits on packets to addresses that a client only knows from its edge.

An edge can supply any address as the peer's and so direct packets of its clients to a third party, until the peer has
authenticated from that address. A client cannot detect this, so it limits what it sends; the limits suffice for honest
peers. One `Quota` serves all punches of a session, including those after the tunnel broke.

The accounting does not depend on the results of connects: all permitted connects to a candidate are charged before the
first one. Therefore an edge learns nothing from reaching a limit.
"""

from __future__ import annotations

from collections import Counter

from punchlab.punch.nat.birthday import PROBES
from punchlab.punch.punching.candidates import Candidate

CONNECTS = 120
"""Per endpoint and punch. A rejected connect is repeated ten times per second, for 10 s by default."""
PREDICTED_CONNECTS = 24
"""Per predicted port and punch; the peer's own attempts use other ports after two seconds."""

PUNCH_ADDRESSES = 4
"""IP addresses per punch: the public one of each family, and two host candidates."""
PUNCH_CONNECTS = 3 * PROBES
"""Per punch: the guesses of `birthday` or the predicted ports of `predict`, and all others."""
PUNCH_DATAGRAMS = 20
"""Per punch: the empty datagrams of `lowttl`, which count the routers on the path to the peer."""

SESSION_ADDRESSES = 8
SESSION_CONNECTS = 2 * PUNCH_CONNECTS
SESSION_DATAGRAMS = 5 * PUNCH_DATAGRAMS
"""Per session, not counting addresses at which the peer has been confirmed."""

SERVERS = 4
"""Server addresses that an edge may supply per session: as many STUN servers as IPv6 addresses and relays."""
SERVER_USES = 2
"""Maximum uses per session of such an address before the server has answered as expected."""
SERVER_USES_ANSWERED = 100
"""Maximum uses per session of an address whose server has answered as expected."""


class Servers:
    """Counts the uses of server addresses that an edge supplies for one purpose."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._answered: set[str] = set()

    def take(self, ip: str) -> bool:
        """Return whether the address may be used once more, and count the use."""
        if ip not in self._uses and len(self._uses) >= SERVERS:
            return False
        if self._uses[ip] >= (SERVER_USES_ANSWERED if ip in self._answered else SERVER_USES):
            return False
        self._uses[ip] += 1
        return True

    def answered(self, ip: str) -> None:
        """Record that the server answered as expected."""
        self._answered.add(ip)


class Quota:
    """The remaining quota of one session. `stun`, `ipv6` and `relays` count servers that an edge supplies."""

    def __init__(self) -> None:
        self.stun, self.ipv6, self.relays = Servers(), Servers(), Servers()
        self._connects: Counter[str] = Counter()
        self._datagrams: Counter[str] = Counter()
        self._proved: set[str] = set()
        self.begin_punch()

    def begin_punch(self) -> None:
        """Reset the counters of a punch."""
        self._punch: Counter[str] = Counter()
        self._endpoints: Counter[Candidate] = Counter()
        self._punch_datagrams = 0

    def connects(self, target: Candidate, wanted: int | None) -> int:
        """Return how many of the wanted connects (None: no limit) may be made to a candidate, and charge them."""
        ip = target.address.ip
        used = self._session(self._connects)
        granted = min(
            CONNECTS if wanted is None else wanted,
            self._left_at(target),
            PUNCH_CONNECTS - self._punch.total(),
            SESSION_CONNECTS - used.total() if ip not in self._proved else PUNCH_CONNECTS,
        )
        if granted <= 0 or not self._takes_address(ip, used):
            return 0
        self._punch[ip] += granted
        self._endpoints[target] += granted
        self._connects[ip] += granted
        return granted

    def datagrams(self, ip: str, count: int) -> bool:
        """Return whether so many datagrams may be sent to the address, and charge them."""
        left = SESSION_DATAGRAMS - self._session(self._datagrams).total() if ip not in self._proved else count
        if count > min(left, PUNCH_DATAGRAMS - self._punch_datagrams):
            return False
        if not self._takes_address(ip, self._session(self._connects)):
            return False
        self._punch[ip] += 0  # counts as an address
        self._connects[ip] += 0
        self._punch_datagrams += count
        self._datagrams[ip] += count
        return True

    def prove(self, ip: str) -> None:
        """Record that the peer has authenticated from this address, which is then not a third party's."""
        self._proved.add(ip)

    def _left_at(self, target: Candidate) -> int:
        """Return the remaining connects to one endpoint. Guesses are limited by their number only."""
        if target.kind == "guess":
            return PROBES
        return (PREDICTED_CONNECTS if target.kind == "predicted" else CONNECTS) - self._endpoints[target]

    def _session(self, counter: Counter[str]) -> Counter[str]:
        return Counter({ip: count for ip, count in counter.items() if ip not in self._proved})

    def _takes_address(self, ip: str, used: Counter[str]) -> bool:
        if ip not in self._punch and len(self._punch) >= PUNCH_ADDRESSES:
            return False
        return ip in self._proved or ip in used or len(used) < SESSION_ADDRESSES
