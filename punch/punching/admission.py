"""Which candidates a punch may connect to: `punch.net.reach` limits the addresses, `punch.punching.quota` the number.

Every connect and every datagram to a peer is checked here. A rejected address is reported once and has no other effect
that an edge could observe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.events import Reporter
from punchlab.punch.net.reach import Reach
from punchlab.punch.punching.candidates import MAX_HOST_CANDIDATES, Candidate
from punchlab.punch.punching.quota import Quota

LIMIT_REACHED = "the limit for addresses at which the peer has not been confirmed"
TOO_MANY_NEIGHBORS = f"one of more than {MAX_HOST_CANDIDATES} endpoints in the client's own IPv6 network"


class Admission:
    """The admission of one punch. `reaches` contains one rule set per address family that the client punches from."""

    def __init__(self, quota: Quota, reaches: Collection[Reach], report: Reporter) -> None:
        self._quota, self._reaches, self._report = quota, reaches, report
        self._confirmed: set[Endpoint] = set()
        self._neighbors: set[Endpoint] = set()
        self._reported: set[str] = set()
        quota.begin_punch()

    def confirm(self, address: Endpoint) -> None:
        """Accept a host candidate that the peer itself sent, authenticated; the rules do not apply to it."""
        self._confirmed.add(address)

    def allowed(self, targets: Iterable[Candidate]) -> list[Candidate]:
        """Return the candidates that the rules allow; report the others."""
        return [target for target in targets if self._refusal(target) is None]

    def connects(self, target: Candidate, wanted: int | None) -> int:
        """Return how many of the wanted connects (None: no limit) may be made to a candidate; 0 for none."""
        if self._refusal(target) is not None or not self._takes_neighbor(target.address):
            return 0
        granted = self._quota.connects(target, wanted)
        if not granted:
            self._refused(target.address.ip, str(target.address), LIMIT_REACHED)
        return granted

    def datagrams(self, target: Candidate, count: int) -> bool:
        """Return whether so many datagrams may be sent to the address."""
        refused = self._refusal(target) is not None or not self._takes_neighbor(target.address)
        return not refused and self._quota.datagrams(target.address.ip, count)

    def _takes_neighbor(self, address: Endpoint) -> bool:
        """Count an endpoint in the client's own IPv6 network, of any kind; the limit is that of host candidates."""
        if address in self._confirmed or not any(each.is_neighbor(address) for each in self._reaches):
            return True
        if address not in self._neighbors and len(self._neighbors) >= MAX_HOST_CANDIDATES:
            self._refused(address.ip, str(address), TOO_MANY_NEIGHBORS)
            return False
        self._neighbors.add(address)
        return True

    def _refusal(self, target: Candidate) -> str | None:
        address = target.address
        if target.kind == "host" and address in self._confirmed:
            return None
        reach = next((each for each in self._reaches if each.own.family == address.family), None)
        if reach is None:
            return None  # no socket of this family exists
        why = reach.refuses_host(address) if target.kind == "host" else reach.refuses_peer(address)
        if why is not None:
            self._refused(str(address), str(address), why)
        return why

    def _refused(self, key: str, address: str, why: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            self._report("candidate_refused", address=address, reason=why)
