"""Will this pair punch? A prediction from two behaviors and the timing of the first SYNs, with the reason in words.

Theory. Each host learned its own external endpoint from the edge, listens on that local address, and dials the
*registered* endpoint of the other. Call X's SYN the one that X sends at time t(X); it reaches Y's NAT one delay d
later. There it is

- admitted always, if Y has no NAT or its filtering is endpoint-independent (with one exception, below);
- admitted if Y has already sent something to X's address, if filtering is address-dependent. What opened that door is
  an entry of its own, so it stays open. (Where X's mapping depends on the destination and X's NAT has a pool of n
  addresses with arbitrary pooling, the SYN comes from the registered address in one case of n only.);
- admitted if Y has already sent to exactly the endpoint that X's SYN comes from, if filtering is
  address-and-port-dependent: so X's mapping must be endpoint-independent (otherwise the SYN comes from a port that
  nobody was told of), and the door is a connection tracking entry, which a RST answering Y's SYN destroys at once
  (unless `reset_closes` is denied). An ICMP error leaves it, but see below;
- never admitted, if Y's own mapping depends on the destination and Y filters at all: the registered port serves the
  edge alone. How its ports are allocated does not matter, for X dials the registered one and no other.

One admitted SYN is enough: the listener or the crossing socket behind the NAT answers it. A SYN that is not admitted is
dropped, and the kernel sends it again after a second; or it is answered. A RST ends the attempt and shuts the dialler's
own door; an ICMP error ends the attempt only, and not even that if the dialler's NAT swallows it. Then only another
attempt can knock again. So with RSTs on both sides two port-restricted cones meet if and only if the SYNs cross between
the NATs, |t(B) - t(A)| < d (53 of 53 against 1 of 40 when measured), or if attempts are repeated with jitter until they
do. The method and the taxonomy are those of Ford, Srisuresh and Kegel (2005) and RFC 5128; mapping and filtering are
named as in RFC 4787.

The door that an ICMP error leaves is a trap. The SYN of X that comes through it finds Y's listener. The SYN-ACK has a
sequence number of its own; to the entry of the attempt that has ended it is a stray, and Y's NAT drops it as it drops
every SYN of Y's from then on. So X's first SYN must find an attempt of Y's alive, which means that it crosses that
attempt's SYN; later ones have no chance, and neither has Y. (With ICMP errors, too, 39 of 39 met whose SYNs crossed,
and 1 of 84 others.) On a path without delay the error can come back within connect(); Linux then keeps it in
`sk_err_soft` and the attempt goes on. Whether it does depends on microseconds, so the prediction there is `depends`.

The exception. Let Y's mapping depend on the destination although its filtering is endpoint-independent, and let X's
mapping be endpoint-independent. Then X's SYN comes to Y's registered port from the very endpoint that Y dials through
another port. A NAT that tracks connections, as ours does, cannot keep the two apart behind Y: whichever was first
stands, and the other is dropped. X's SYN gets in if it arrives before Y dials, or after a RST has ended Y's attempt.

Method. These rules, the retransmissions, the pauses between attempts and the losses are put together by
`punch.nat.syn_simulation`, which lets the two hosts dial. Where nothing is drawn it is asked once. Otherwise the
probability is the share of runs, always of the same draws: at least 400 runs (a standard error of at most 2.5 %), and
1000 before an outcome counts as certain, so that whatever the probability p may be, less than one trial in 2500
contradicts it (p^1000 (1 - p) < 1 / 1000e). Where there is a closed form, tests hold the runs to it.

Whether the client leaves the edge before it dials (`reuse`) or stays (`keep`) is not asked: with these behaviors the
mapping lives on either way, and both do the same.

Times are in seconds. `skew_s` is t(B) - t(A) and, wherever the outcome hangs on it, must be the measured one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from punchlab.punch.nat.behavior import BehaviorError, NatBehavior, Unsolicited
from punchlab.punch.nat.syn_simulation import (
    End,
    Run,
    SynSimulation,
    admits_anyone,
    admits_dialled,
    dependent,
    occupies,
    uses_other_address,
)

_RUNS = 1000
_RUNS_WHEN_MIXED = 400
_SEED = 5382

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
    packets lost one way, independently; `jitter_s` by how much the delay varies. Raises `BehaviorError`.
    """

    delay_s: float
    skew_s: float = 0.0
    attempts: int | None = None
    deadline_s: float = 10.0
    loss: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delay_s", "skew_s", "deadline_s", "loss", "jitter_s"):
            value = getattr(self, name)
            least, most = (-math.inf if name == "skew_s" else 0.0), (1.0 if name == "loss" else math.inf)
            if not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= most:
                limits = "from 0 to 1" if name == "loss" else "" if name == "skew_s" else "from 0"
                raise BehaviorError(f"{name}: {value!r:.300} cannot be used; expected a number {limits}".rstrip())
        if self.attempts is not None and (not isinstance(self.attempts, int) or self.attempts < 1):
            raise BehaviorError(f"attempts: {self.attempts!r:.300} cannot be used; expected a whole number from 1")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The probability of a direct connection, why, and the least time that it takes.

    `floor_s` runs from the first SYN of either host to the later of the two being connected, `agreed_floor_s` to the
    later of the two having agreed on that connection where A is the sender (`agreement_s`); None when it fails.
    """

    outcome: Outcome
    probability: float
    reason: str
    floor_s: float | None
    agreed_floor_s: float | None = None

    def agrees(self, direct: bool) -> bool | None:
        """Whether one trial is as predicted; None where a single trial cannot tell."""
        return None if self.outcome is Outcome.DEPENDS else direct is (self.outcome is Outcome.DIRECT)


def agreement_s(sender_s: float, receiver_s: float, delay_s: float) -> float:
    """When the later host has agreed at the earliest, the two being connected at `sender_s` and `receiver_s`.

    What `punch.client` says on a connection (channel and agreement), each message one delay d under way and sent as
    soon as its sender has what it needs, S the sender's and R the receiver's time:

        hello      both, once connected                          at S+d with the receiver, at R+d with the sender
        proof      sender, in answer to the receiver's hello     sent at C = max(S, R+d), with the receiver at C+d
        proof      receiver, in answer to the sender's proof     the receiver has agreed at C+d, the sender at C+2d

    So the later one, always the sender, has agreed at max(S + 2d, R + 3d).
    """
    return max(sender_s + 2 * delay_s, receiver_s + 3 * delay_s)


def predict(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> Prediction:
    """The prediction for hosts A and B behind these NATs (None: a public host)."""
    hosts = [("A", a), ("B", b)]
    if dial.skew_s < 0:
        hosts.reverse()
    runs = _runs([nat for _name, nat in hosts], dial)
    direct = [run for run in runs if run.time_s is not None]
    failed = [run for run in runs if run.time_s is None]
    if not direct:
        return Prediction(Outcome.FAILS, 0.0, _failure(failed, hosts, dial), None)
    connected = [run.connected_s for run in direct if run.connected_s is not None]
    floor = min(map(max, connected))
    sender = [name for name, _nat in hosts].index("A")
    agreed_floor = min(agreement_s(each[sender], each[1 - sender], dial.delay_s) for each in connected)
    if not failed:
        return Prediction(Outcome.DIRECT, 1.0, _success(direct, hosts), floor, agreed_floor)
    reason = f"{_success(direct, hosts)}; or else {_failure(failed, hosts, dial)}"
    return Prediction(Outcome.DEPENDS, len(direct) / len(runs), reason, floor, agreed_floor)


def _runs(nats: list[NatBehavior | None], dial: Dial) -> list[Run]:
    dialling = SynSimulation(
        nats,
        skew_s=abs(dial.skew_s),
        delay_s=dial.delay_s,
        attempts=dial.attempts,
        deadline_s=dial.deadline_s,
        loss=dial.loss,
        jitter_s=dial.jitter_s,
    )
    draw = random.Random(_SEED)
    runs = [dialling.run(draw)]
    if not runs[0].chance:
        return runs
    while len(runs) < _RUNS:
        runs.append(dialling.run(draw))
        if len(runs) == _RUNS_WHEN_MIXED and len({run.time_s is None for run in runs}) == 2:
            break
    return runs


def _success(runs: list[Run], hosts: list[_Host]) -> str:
    """What the most common of the runs that connected tells."""
    ((end, index, later, again), _times) = Counter(
        (run.end, run.dialler, run.attempt > 1, run.again) for run in runs
    ).most_common(1)[0]
    (name, _nat), (peer, nat) = hosts[index], hosts[1 - index]
    if end is End.CROSSED:
        return f"{'later' if later else 'the'} SYNs cross between the NATs"
    syn = f"{name}'s {'retransmitted ' if again else ''}SYN{' of a later attempt' if later else ''}"
    if end is End.UNDIALLED:
        return f"{syn} gets in while {peer} does not dial"
    if admits_anyone(nat):
        return f"{peer} admits anyone, so {syn} gets in"
    return f"{syn} finds {peer}'s door open"


def _failure(runs: list[Run], hosts: list[_Host], dial: Dial) -> str:
    """What the most common of the runs that failed tells."""
    ((end, index), _times) = Counter((run.end, run.dialler) for run in runs).most_common(1)[0]
    if end is End.STALE:
        name, peer = hosts[index][0], hosts[1 - index][0]
        return f"{name}'s SYN finds {peer}'s door open, but an ICMP error has ended the attempt behind it"
    able = [
        hosts[index][0]
        for index in (0, 1)
        if admits_dialled(hosts[1 - index][1], hosts[index][1]) and not occupies(hosts[1 - index][1], hosts[index][1])
    ]
    if not able:
        return _hopeless(hosts)
    roaming = [name for name, nat in hosts if name in able and uses_other_address(nat)]
    if roaming:
        return f"{roaming[0]}'s SYN comes from another address of its NAT's pool"
    why = "no attempt is left" if end is End.SPENT else "the deadline comes first"
    refusing = any(nat is not None and nat.unsolicited is not Unsolicited.DROP for _name, nat in hosts)
    if dial.loss and not (refusing and abs(dial.skew_s) >= dial.delay_s):
        return f"packets are lost: {why}"
    if len(able) == 2:
        return (
            f"the SYNs must cross, and they are {abs(dial.skew_s) * 1e3:.1f} ms apart on a delay of "
            f"{dial.delay_s * 1e3:.1f} ms: {why}"
        )
    return f"{able[0]}'s SYN comes too early: {why}"


def _hopeless(hosts: list[_Host]) -> str:
    for (name, nat), (peer, peer_nat) in (hosts, hosts[::-1]):
        if occupies(nat, peer_nat):
            return (
                f"{name}'s mapping depends on the destination: its SYN comes from a port that {peer} never dialled, "
                f"and keeps {peer}'s SYN from getting in"
            )
    named = [name for name, nat in hosts if dependent(nat)]
    if len(named) == 2:
        return "both mappings depend on the destination: neither host knows the port that the other will come from"
    other = "B" if named == ["A"] else "A"
    return (
        f"{named[0]}'s mapping depends on the destination, and {other} filters by address and port: "
        f"{named[0]}'s SYN comes from a port that {other} never dialled"
    )
