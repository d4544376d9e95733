"""Will this pair punch? A prediction from two behaviors and the timing of the first SYNs, with the reason in words.

Theory. Each host learned its own external endpoint from the edge, listens on that local address, and dials the
*registered* endpoint of the other. Call X's SYN the one that X sends at time t(X); it reaches Y's NAT one delay d
later. There it is

- admitted always, if Y has no NAT or its filtering is endpoint-independent;
- admitted if Y has already sent something to X's address, if filtering is address-dependent. What opened that door is
  an entry of its own, so it stays open;
- admitted if Y has already sent to exactly the endpoint that X's SYN comes from, if filtering is
  address-and-port-dependent: so X's mapping must be endpoint-independent (otherwise the SYN comes from a port that
  nobody was told of), and the door is a connection tracking entry, which a RST answering Y's SYN destroys at once;
- never admitted, if Y's own mapping depends on the destination: the registered port serves the edge alone.

One admitted SYN is enough: the listener or the crossing socket behind the NAT answers it. A SYN that is not admitted is
dropped, and the kernel sends it again after a second, or is answered by a RST: then the dialler's own door is shut, and
only another attempt can open it. So with RSTs on both sides two port-restricted cones meet if and only if the SYNs
cross between the NATs, |t(B) - t(A)| < d (53 of 53 against 1 of 40 when measured), or if attempts are repeated with
jitter until they do. The method and the taxonomy are those of Ford, Srisuresh and Kegel (2005) and RFC 5128; mapping
and filtering are named as in RFC 4787.

Times are in seconds. `skew_s` is t(B) - t(A) and, wherever the outcome hangs on it, must be the measured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from punch.nat.behavior import Filtering, Mapping, NatBehavior, Unsolicited

SYN_TIMES_S = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 19.0, 35.0)
"""When Linux sends a SYN and its retransmissions (tcp_syn_linear_timeouts = 4, kernels from 6.5 on)."""

RETRY_INTERVAL_S = 0.1
"""Mean pause of the client before it dials again after a refusal: 50 to 150 ms, uniform."""

_CERTAIN = 0.999


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

    wrong = [name for (name, nat), (_, peer) in ((first, second), (second, first)) if not _admits_late(nat, peer)]
    if len(wrong) == 2:
        return Prediction(Outcome.FAILS, 0.0, _hopeless(first, second), None)

    # From here on at least one SYN is admitted once the other host has dialled.
    crosses = skew < dial.delay_s
    first_wrong = second[0] in wrong
    if crosses and not first_wrong:
        both = not wrong
        floor = 2 * dial.delay_s + skew if both else 3 * dial.delay_s
        story = "the SYNs cross between the NATs" if both else f"{first[0]}'s SYN finds {second[0]}'s door open"
        return _certain(dial, story, floor)
    if _admits_early(second[1]):
        return _certain(dial, f"{second[0]} admits anyone, so {first[0]}'s SYN gets in", 3 * dial.delay_s)
    # The first SYN is turned away. The second one gets in if the first host's door still stands open.
    second_wrong = first[0] in wrong
    if not second_wrong and (not _refuses(second[1]) or _door_stays(first[1])):
        story = f"{second[0]}'s SYN comes later and finds {first[0]}'s door open"
        return _certain(dial, story, skew + 3 * dial.delay_s)
    if not _refuses(second[1]):
        # Dropped, so the kernel's retransmission knocks again when the other door is open.
        if dial.deadline_s <= SYN_TIMES_S[1]:
            return Prediction(Outcome.FAILS, 0.0, "the deadline comes before the first SYN is sent again", None)
        return _certain(dial, f"{first[0]}'s retransmitted SYN finds {second[0]}'s door open", 1 + 3 * dial.delay_s)
    if not first_wrong and (second_wrong or _door_stays(second[1]) or not _refuses(first[1])):
        # What the second host's SYN opened stays open, whatever became of that SYN: dialling again is enough.
        return _again(dial, f"{first[0]}'s SYN came too early and was refused", chance=1.0)
    crossing = min(1.0, 2 * dial.delay_s / RETRY_INTERVAL_S)
    return _again(
        dial, f"the SYNs must cross: {skew * 1e3:.1f} ms apart on a delay of {dial.delay_s * 1e3:.1f} ms", crossing
    )


def _admits_early(nat: NatBehavior | None) -> bool:
    return nat is None or (
        nat.mapping is Mapping.ENDPOINT_INDEPENDENT and nat.filtering is Filtering.ENDPOINT_INDEPENDENT
    )


def _admits_late(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Whether the peer's SYN is admitted once the host behind `nat` has dialled the peer's registered endpoint."""
    if _admits_early(nat):
        return True
    if nat is None or nat.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        return False
    if nat.filtering is Filtering.ADDRESS_DEPENDENT:
        return True
    return peer is None or peer.mapping is Mapping.ENDPOINT_INDEPENDENT


def _refuses(nat: NatBehavior | None) -> bool:
    return nat is not None and nat.unsolicited is Unsolicited.RESET


def _door_stays(nat: NatBehavior | None) -> bool:
    """Whether what the host opened survives a RST in answer to its SYN."""
    return nat is None or nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT


def _hopeless(first: tuple[str, NatBehavior | None], second: tuple[str, NatBehavior | None]) -> str:
    dependent = [
        name for name, nat in (first, second) if nat is not None and nat.mapping is not Mapping.ENDPOINT_INDEPENDENT
    ]
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
