"""Predict whether two hosts can connect, from the behaviors of their NATs and the timing of the first SYNs.

Theory. Each host has discovered its external endpoint through the edge, listens on that local address, and connects to
the *registered* endpoint of the peer. X's SYN leaves at time t(X) and arrives at Y's NAT one delay d later. There it is

- always admitted if Y has no NAT or filtering is endpoint-independent (with the exception below);
- admitted if Y has sent anything to X's address, with address-dependent filtering. That pinhole is a separate entry and
  survives RSTs. (If X's mapping depends on the destination and X's NAT has n pool addresses with arbitrary pooling, the
  SYN comes from the registered address in only one of n cases.);
- admitted if Y has sent a packet to exactly the source endpoint of X's SYN, with address-and-port-dependent filtering.
  So X's mapping must be endpoint-independent; otherwise Y does not know the source port. The pinhole is a connection
  tracking entry, which a RST in answer to Y's SYN removes at once (unless `reset_closes` is False). An ICMP error does
  not remove it, but see below;
- never admitted if Y's mapping depends on the destination and Y's NAT filters: the registered port is valid only for
  the edge. Port allocation does not matter, because X connects only to the registered port.

One admitted SYN is enough: the listener or the connecting socket behind the NAT answers it. A SYN that is not admitted
is dropped, and the kernel retransmits it after a second; or it is answered. A RST ends the attempt and closes the
sender's own pinhole. An ICMP error only ends the attempt, unless the sender's NAT swallows it. After that, only another
attempt sends a SYN. So with RSTs on both sides, two port-restricted cones connect if and only if the SYNs cross between
the NATs, |t(B) - t(A)| < d (measured: 53 of 53 connected, against 1 of 40), or if attempts with jitter are repeated
until they cross. The method and the taxonomy are those of Ford, Srisuresh and Kegel (2005) and RFC 5128; mapping and
filtering have the names of RFC 4787.

ICMP errors leave a pinhole that does not help. X's SYN passes it and reaches Y's listener. The SYN-ACK has a new
sequence number, which does not match the entry of the ended attempt, so Y's NAT drops it, and all later SYNs of Y as
well. So X's first SYN must arrive while an attempt of Y is active, which means that the SYNs cross; later SYNs of both
hosts fail. (With ICMP errors, 39 of 39 pairs connected whose SYNs crossed, and 1 of 84 others.) On a path without
delay, the error can arrive during connect(); Linux then stores it in `sk_err_soft` and the attempt continues. That
depends on microseconds, so the prediction is `depends`.

Exception. Y's mapping depends on the destination, Y's filtering is endpoint-independent, and X's mapping is
endpoint-independent. Then X's SYN arrives at Y's registered port from the same endpoint to which Y connects through
another port. A NAT with connection tracking, like those of the lab, cannot distinguish the two flows behind Y: it keeps
the first and drops the other. X's SYN passes if it arrives before Y's first SYN, or after a RST has ended Y's attempt.

Method. `punch.nat.syn_simulation` simulates both hosts with these rules, retransmissions, pauses and losses.
Without random draws, it runs once. Otherwise the probability is the share of successful runs, always with the same
seed: at least 400 runs (a standard error of at most 2.5 %), and 1000 before an outcome is certain. So for any
probability p, fewer than one trial in 2500 contradicts a certain outcome (p^1000 (1 - p) < 1 / 1000e). Tests compare
the runs with closed forms where these exist.

Whether the client disconnects from the edge before it connects (`reuse`) or stays connected (`keep`) does not matter:
with these behaviors the mapping survives in both cases.

Times are in seconds. `skew_s` is t(B) - t(A); where the outcome depends on it, it must be the measured value.
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
    """The predicted outcome: certain success, certain failure, or a probability between."""

    DIRECT = "direct"
    FAILS = "fails"
    DEPENDS = "depends"


@dataclass(frozen=True, slots=True)
class Dial:
    """How two hosts connect: one-way delay, skew, and limits of the attempts.

    `attempts` is the maximum number of connect() calls per host, None for no maximum. `loss` is the fraction of packets
    lost one way, independently. `jitter_s` is the variation of the delay. Raises `BehaviorError`.
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
    """The probability of a direct connection, the reason, and lower bounds of its time.

    `floor_s` is the time from the first SYN of either host until both hosts are connected, `agreed_floor_s` until both
    have agreed on that connection with A as the sender (`agreement_s`). None for a failure.
    """

    outcome: Outcome
    probability: float
    reason: str
    floor_s: float | None
    agreed_floor_s: float | None = None

    def agrees(self, direct: bool) -> bool | None:
        """Return whether a trial agrees with the prediction, or None if a single trial cannot decide."""
        return None if self.outcome is Outcome.DEPENDS else direct is (self.outcome is Outcome.DIRECT)


def agreement_s(sender_s: float, receiver_s: float, delay_s: float) -> float:
    """Return the earliest time of agreement of both hosts, which are connected at `sender_s` and `receiver_s`.

    These are the messages of `punch.client` on a connection. Each takes one delay d and is sent as soon as possible. S
    is the sender's time, R the receiver's:

        hello      both, once connected                          arrives at S+d (receiver) and R+d (sender)
        proof      sender, in answer to the receiver's hello     sent at C = max(S, R+d), arrives at C+d
        proof      receiver, in answer to the sender's proof     the receiver agrees at C+d, the sender at C+2d

    So the sender is the later one, at max(S + 2d, R + 3d).
    """
    return max(sender_s + 2 * delay_s, receiver_s + 3 * delay_s)


def predict_outcome(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> Prediction:
    """Predict the outcome for hosts A and B behind these NATs (None: a public host)."""
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
    reason = f"{_success(direct, hosts)}; otherwise {_failure(failed, hosts, dial)}"
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
    """Return the reason of the most common kind of successful run."""
    ((end, index, later, again), _times) = Counter(
        (run.end, run.dialler, run.attempt > 1, run.again) for run in runs
    ).most_common(1)[0]
    (name, _nat), (peer, nat) = hosts[index], hosts[1 - index]
    if end is End.CROSSED:
        return f"{'later' if later else 'the'} SYNs cross between the NATs"
    syn = f"{name}'s {'retransmitted ' if again else ''}SYN{' of a later attempt' if later else ''}"
    if end is End.UNDIALLED:
        return f"{syn} is admitted while {peer} sends no SYN"
    if admits_anyone(nat):
        return f"{peer}'s filtering is endpoint-independent, so {syn} is admitted"
    return f"{peer}'s pinhole admits {syn}"


def _failure(runs: list[Run], hosts: list[_Host], dial: Dial) -> str:
    """Return the reason of the most common kind of failed run."""
    ((end, index), _times) = Counter((run.end, run.dialler) for run in runs).most_common(1)[0]
    if end is End.STALE:
        name, peer = hosts[index][0], hosts[1 - index][0]
        return f"{peer}'s pinhole admits {name}'s SYN, but an ICMP error has ended {peer}'s attempt"
    able = [
        hosts[index][0]
        for index in (0, 1)
        if admits_dialled(hosts[1 - index][1], hosts[index][1]) and not occupies(hosts[1 - index][1], hosts[index][1])
    ]
    if not able:
        return _hopeless(hosts)
    straying = [name for name, nat in hosts if name in able and uses_other_address(nat)]
    if straying:
        return f"{straying[0]}'s SYN comes from another address of its NAT's pool"
    why = "no attempts are left" if end is End.SPENT else "the deadline expires"
    answering = any(nat is not None and nat.unsolicited is not Unsolicited.DROP for _name, nat in hosts)
    if dial.loss and not (answering and abs(dial.skew_s) >= dial.delay_s):
        return f"packets are lost: {why}"
    if len(able) == 2:
        return (
            f"the SYNs must cross, but they are {abs(dial.skew_s) * 1e3:.1f} ms apart with a delay of "
            f"{dial.delay_s * 1e3:.1f} ms: {why}"
        )
    return f"{able[0]}'s SYN arrives too early: {why}"


def _hopeless(hosts: list[_Host]) -> str:
    for (name, nat), (peer, peer_nat) in (hosts, hosts[::-1]):
        if occupies(nat, peer_nat):
            return (
                f"{name}'s mapping depends on the destination: the source port of its SYN is unknown to {peer}, "
                f"and its connection tracking entry blocks {peer}'s SYN"
            )
    named = [name for name, nat in hosts if dependent(nat)]
    if len(named) == 2:
        return "both mappings depend on the destination: neither host knows the source port of the other"
    other = "B" if named == ["A"] else "A"
    return (
        f"{named[0]}'s mapping depends on the destination, and {other} filters by address and port: "
        f"the source port of {named[0]}'s SYN is unknown to {other}"
    )
