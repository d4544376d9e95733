"""Will this pair punch? A prediction from two behaviors and the timing of the first SYNs, with the reason in words.

Theory. Each host learned its own external endpoint from the edge, listens on that local address, and dials the
*registered* endpoint of the other. Call X's SYN the one that X sends at time t(X); it reaches Y's NAT one delay d
later. There it is

- admitted always, if Y has no NAT or its filtering is endpoint-independent (with one exception, below);
- admitted if Y has already sent something to X's address, if filtering is address-dependent. What opened that door is
  an entry of its own, so it stays open;
- admitted if Y has already sent to exactly the endpoint that X's SYN comes from, if filtering is
  address-and-port-dependent: so X's mapping must be endpoint-independent (otherwise the SYN comes from a port that
  nobody was told of), and the door is a connection tracking entry, which a RST answering Y's SYN destroys at once.
  An ICMP error leaves it, but see below;
- never admitted, if Y's own mapping depends on the destination and Y filters at all: the registered port serves the
  edge alone. How its ports are allocated does not matter, for X dials the registered one and no other.

One admitted SYN is enough: the listener or the crossing socket behind the NAT answers it. A SYN that is not admitted is
dropped, and the kernel sends it again after a second; or it is answered. A RST ends the attempt and shuts the dialler's
own door; an ICMP error ends the attempt only, and not even that if the dialler's NAT swallows it. Then only another
attempt can knock again. So with RSTs on both sides two port-restricted cones meet if and only if the SYNs cross between
the NATs, |t(B) - t(A)| < d (53 of 53 against 1 of 40 when measured), or if attempts are repeated with jitter until they
do. The method and the taxonomy are those of Ford, Srisuresh and Kegel (2005) and RFC 5128; mapping and filtering are
named as in RFC 4787.

The door that an ICMP error leaves is of little use. The SYN of X that comes through it finds Y's listener. The SYN-ACK
has a sequence number of its own; to the entry of the attempt that has ended it is a stray, and Y's NAT drops it as it
drops every SYN of Y's from then on. So X's SYN must find an attempt of Y's alive, and it has one chance. (With ICMP
errors, too, 39 of 39 met whose SYNs crossed, and 1 of 84 others.) Where there is no delay at all the error comes back
within connect(), which Linux takes for no more than advice: then it is as if the SYN had been dropped.

The exception. Let Y's mapping depend on the destination although its filtering is endpoint-independent, and let X's
mapping be endpoint-independent. Then X's SYN comes to Y's registered port from the very endpoint that Y dials through
another port. A NAT that tracks connections, as ours does, cannot keep the two apart behind Y: whichever was first
stands, and the other is dropped. X's SYN gets in if it arrives before Y dials, or after a RST has ended Y's attempt.

Times are in seconds. `skew_s` is t(B) - t(A) and, wherever the outcome hangs on it, must be the measured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from punch.nat.behavior import Filtering, IcmpErrors, NatBehavior, Unsolicited

SYN_TIMES_S = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 19.0, 35.0)
"""When Linux sends a SYN and its retransmissions (tcp_syn_linear_timeouts = 4, kernels from 6.5 on)."""

RETRY_INTERVAL_S = 0.1
"""Mean pause of the client before it dials again after a refusal: 50 to 150 ms, uniform."""

_CERTAIN = 0.999

_Host = tuple[str, NatBehavior | None]


class Outcome(StrEnum):
    """What is predicted: certain success, certain failure, or a probability strictly between."""

    DIRECT = "direct"
    FAILS = "fails"
    DEPENDS = "depends"


@dataclass(frozen=True, slots=True)
class Dial:
    """How the two hosts dial: the delay between them one way, the skew, and for how often and how long they try.

    `attempts` counts connect() calls per host, None for as many as the deadline allows. `loss` is the fraction of
    packets lost one way, independently.
    """

    delay_s: float
    skew_s: float = 0.0
    attempts: int | None = None
    deadline_s: float = 10.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """The probability of a direct connection, why, and the least time that it takes.

    `floor_s` runs from the first SYN of either host to the later of the two being connected; None when it fails.
    """

    outcome: Outcome
    probability: float
    reason: str
    floor_s: float | None

    def agrees(self, direct: bool) -> bool | None:
        """Whether one trial is as predicted; None where a single trial cannot tell."""
        return None if self.outcome is Outcome.DEPENDS else direct is (self.outcome is Outcome.DIRECT)


def predict(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> Prediction:
    """The prediction for hosts A and B behind these NATs (None: a public host)."""
    first, second = ("A", a), ("B", b)
    if dial.skew_s < 0:
        first, second = second, first
    skew = abs(dial.skew_s)

    if _occupies(first[1], second[1]):
        return _occupied(dial, first, second, lead_s=skew)
    if _occupies(second[1], first[1]):
        return _occupied(dial, second, first, lead_s=-skew)
    wrong = [name for (name, nat), (_, peer) in ((first, second), (second, first)) if not _admits_late(nat, peer)]
    if len(wrong) == 2:
        return Prediction(Outcome.FAILS, 0.0, _hopeless(first, second), None)

    # From here on at least one SYN is admitted once the other host has dialled.
    crosses = skew < dial.delay_s
    first_wrong = second[0] in wrong
    if crosses and not first_wrong:
        # Both SYNs belong to one connection if each comes from where the other goes.
        both = not wrong and not _dependent(first[1]) and not _dependent(second[1])
        floor = 2 * dial.delay_s + skew if both else 3 * dial.delay_s
        story = "the SYNs cross between the NATs" if both else f"{first[0]}'s SYN finds {second[0]}'s door open"
        return _certain(dial, story, floor)
    if _admits_anyone(second[1]):
        return _certain(dial, f"{second[0]} admits anyone, so {first[0]}'s SYN gets in", 3 * dial.delay_s)
    # The first SYN is turned away. The second one gets in if the first host's door still stands open.
    second_wrong = first[0] in wrong
    if not _refuses(second[1], first[1], dial):
        if not second_wrong:
            story = f"{second[0]}'s SYN comes later and finds {first[0]}'s door open"
            return _certain(dial, story, skew + 3 * dial.delay_s)
        return _retransmitted(dial, first, second)
    if not second_wrong:
        if _resets(second[1]) and _survives_reset(first[1]):
            story = f"{second[0]}'s SYN comes later and finds {first[0]}'s door open"
            return _certain(dial, story, skew + 3 * dial.delay_s)
        if not _resets(second[1]) and (first[1] is None or _dependent(second[1])):
            story = f"{second[0]}'s SYN comes later and finds {first[0]}'s door open"
            return _certain(dial, story, skew + 3 * dial.delay_s)
        if not _resets(second[1]):
            return _stale(dial, first, second, skew)
    if not first_wrong and (second_wrong or not _refuses(first[1], second[1], dial)):
        # What the second host's SYN opened stays open, whatever became of that SYN: dialling again is enough.
        return _again(dial, f"{first[0]}'s SYN came too early and was refused", chance=1.0)
    if not first_wrong and not _resets(first[1]):
        return _stale(dial, second, first, 0.0)
    if not first_wrong and _survives_reset(second[1]):
        return _again(dial, f"{first[0]}'s SYN came too early and was refused", chance=1.0)
    crossing = min(1.0, 2 * dial.delay_s / RETRY_INTERVAL_S)
    return _again(
        dial, f"the SYNs must cross: {skew * 1e3:.1f} ms apart on a delay of {dial.delay_s * 1e3:.1f} ms", crossing
    )


def _stale(dial: Dial, early: _Host, late: _Host, after_s: float) -> Prediction:
    """An ICMP error ended the early host's attempt and left its door: the late SYN needs another attempt alive there.

    The early host began `after_s` before the late one.
    """
    story = f"{late[0]}'s SYN finds {early[0]}'s door open, but only where an attempt of {early[0]}'s is under way"
    period = RETRY_INTERVAL_S + 2 * dial.delay_s
    over = dial.attempts is not None and after_s + dial.delay_s > dial.attempts * period
    if dial.attempts == 1 or over:
        return Prediction(Outcome.FAILS, 0.0, f"{story}, and it has ended", None)
    return _graded(2 * dial.delay_s / period * (1 - dial.loss) ** 3, story, after_s + 2 * dial.delay_s)


def _occupied(dial: Dial, owner: _Host, peer: _Host, lead_s: float) -> Prediction:
    """The exception: `owner` dials from another port than the registered one, at which it admits anyone.

    The owner dials `lead_s` before the peer (negative: after it).
    """
    delay, begin = dial.delay_s, min(0.0, lead_s)
    if lead_s <= -delay:
        return _certain(dial, f"{peer[0]}'s SYN gets in before {owner[0]} dials", 3 * delay)
    if _admits_anyone(peer[1]):
        return _certain(dial, f"{peer[0]} admits anyone, so {owner[0]}'s SYN gets in", 3 * delay - begin)
    if _admits_late(peer[1], owner[1]):
        if lead_s < delay:
            return _certain(dial, f"{owner[0]}'s SYN finds {peer[0]}'s door open", 3 * delay - begin)
        if not _refuses(peer[1], owner[1], dial):
            return _retransmitted(dial, owner, peer)
        if _resets(peer[1]):
            story = f"{peer[0]}'s SYN gets in after a RST has ended {owner[0]}'s attempt"
            return _certain(dial, story, lead_s + 3 * delay)
        return _again(dial, f"{owner[0]}'s SYN came too early and was refused", chance=1.0)
    if not _resets(peer[1]):
        reason = (
            f"{owner[0]}'s mapping depends on the destination: its SYN comes from a port that {peer[0]} never dialled, "
            f"and keeps {peer[0]}'s SYN from getting in"
        )
        return Prediction(Outcome.FAILS, 0.0, reason, None)
    # A RST ends each of the owner's attempts after a round trip; the peer's SYN gets in if it comes between two.
    busy = 2 * delay / (RETRY_INTERVAL_S + 2 * delay)
    last = None if dial.attempts is None else dial.attempts * (RETRY_INTERVAL_S + 2 * delay)
    shut, floor = 1.0, None
    for knock in SYN_TIMES_S:
        arrival = lead_s + knock + delay
        if knock + 3 * delay >= dial.deadline_s:
            break
        if arrival > 2 * delay:
            shut *= 0.0 if last is not None and arrival > last else busy
            floor = arrival + 2 * delay - begin if floor is None else floor
    story = f"{peer[0]}'s SYN gets in only between {owner[0]}'s attempts, which come from a port it never dialled"
    return _graded(1 - shut, story, floor or 0.0)


def _retransmitted(dial: Dial, early: _Host, late: _Host) -> Prediction:
    """The early SYN was dropped, so the kernel knocks again when the other door is open."""
    if dial.deadline_s <= SYN_TIMES_S[1]:
        return Prediction(Outcome.FAILS, 0.0, "the deadline comes before the first SYN is sent again", None)
    return _certain(dial, f"{early[0]}'s retransmitted SYN finds {late[0]}'s door open", 1 + 3 * dial.delay_s)


def _dependent(nat: NatBehavior | None) -> bool:
    return nat is not None and nat.destination_dependent


def _admits_anyone(nat: NatBehavior | None) -> bool:
    return nat is None or nat.filtering is Filtering.ENDPOINT_INDEPENDENT


def _occupies(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Whether the host's own SYN keeps out one that comes from where it goes."""
    return _dependent(nat) and _admits_anyone(nat) and not _dependent(peer)


def _admits_late(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Whether the peer's SYN is admitted once the host behind `nat` has dialled the peer's registered endpoint."""
    if nat is None or _admits_anyone(nat):
        return True
    if _dependent(nat):
        return False
    return nat.filtering is Filtering.ADDRESS_DEPENDENT or not _dependent(peer)


def _resets(nat: NatBehavior | None) -> bool:
    return nat is not None and nat.unsolicited is Unsolicited.RESET


def _refuses(nat: NatBehavior | None, dialler: NatBehavior | None, dial: Dial) -> bool:
    """Whether an attempt from behind `dialler` ends because its SYN was not admitted."""
    if nat is None or nat.unsolicited is Unsolicited.DROP:
        return False
    if nat.unsolicited is Unsolicited.SILENT_THEN_ICMP and abs(dial.skew_s) < nat.silence_s:
        return False  # the peer dials during the silence, and then there is no answer
    noticed = dialler is None or dialler.icmp_errors is IcmpErrors.TRANSLATED
    return _resets(nat) or (noticed and dial.delay_s > 0)


def _survives_reset(nat: NatBehavior | None) -> bool:
    """Whether what a host's SYN opened outlives a RST in answer to it."""
    return nat is None or nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT or not nat.reset_closes


def _hopeless(first: _Host, second: _Host) -> str:
    dependent = [name for name, nat in (first, second) if _dependent(nat)]
    if len(dependent) == 2:
        return "both mappings depend on the destination: neither host knows the port that the other will come from"
    other = "B" if dependent == ["A"] else "A"
    return (
        f"{dependent[0]}'s mapping depends on the destination, and {other} filters by address and port: "
        f"{dependent[0]}'s SYN comes from a port that {other} never dialled"
    )


def _certain(dial: Dial, reason: str, floor_s: float) -> Prediction:
    if dial.loss == 0:
        return Prediction(Outcome.DIRECT, 1.0, reason, floor_s)
    knocks = sum(1 for t in SYN_TIMES_S if t + floor_s < dial.deadline_s)
    # A handshake is three packets; each knock is a SYN that the kernel sends again when any of them is lost.
    return _graded(1 - (1 - (1 - dial.loss) ** 3) ** knocks, f"{reason}, unless packets are lost", floor_s)


def _again(dial: Dial, reason: str, chance: float) -> Prediction:
    """Refused at first; `chance` is that of each further attempt."""
    possible = int(dial.deadline_s / (RETRY_INTERVAL_S + 2 * dial.delay_s))
    further = max(0, (possible if dial.attempts is None else min(dial.attempts, possible)) - 1)
    story = f"{reason}; {further} further attempts" if further else f"{reason}, and there is no second attempt"
    return _graded(1 - (1 - chance * (1 - dial.loss) ** 3) ** further, story, RETRY_INTERVAL_S / 2 + 4 * dial.delay_s)


def _graded(probability: float, reason: str, floor_s: float) -> Prediction:
    if probability >= _CERTAIN:
        return Prediction(Outcome.DIRECT, probability, reason, floor_s)
    if probability <= 1 - _CERTAIN:
        return Prediction(Outcome.FAILS, probability, reason, None)
    return Prediction(Outcome.DEPENDS, probability, reason, floor_s)
