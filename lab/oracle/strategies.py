"""Predict the outcome of each strategy of the client.

Theory. `lab.oracle.outcome` (for NATs in series `lab.oracle.nesting`) predicts two hosts that connect to each other's
registered endpoints: PLAIN below. A strategy changes one premise of that model, and so does its prediction:

reuse, keep  PLAIN. Whether the client disconnects from the edge first does not matter: no behavior here deletes a
             mapping when its connection ends.
sync         PLAIN with three additional attempts, and with the skew that remains after the agreed instant (Seemann,
             Inden, Vyzovitis, "Decentralized Hole Punching", 2022: DCUtR).
lowttl       The first SYNs expire between the NATs, so no NAT answers them: PLAIN with NATs that drop. A router
             sends ICMP Time Exceeded (RFC 792), which ends a connect() on Linux (EHOSTUNREACH) but closes no
             pinhole. The client connects again at once, so an attempt is active when the peer's SYN arrives, unlike
             after the NAT's ICMP errors. It does not help with destination-dependent mappings. (Guha, Takeda, Francis,
             "NUTSS", 2004, section 4: STUNT; Guha and Francis, IMC 2005.)
predict      One host's mapping depends on the destination with sequential ports, the other's mapping does not. The
             first host sends its SYN; the peer learns its predicted port and the ports around it, at most `window`,
             and connects to all of them: P = P(hit) x PLAIN(of an endpoint-independent mapping, and a peer that
             connects later). With Poisson arrivals of `background_per_s` in the `measured_s` between the measurement
             of the sequence and the SYN, P(hit) = P(Poisson < window). If both have sequential ports, each host sends
             its next port to the peer, which connects to that port only; no other host may use it on either side,
             P(Poisson = 0) of both, in `rounds` rounds. All other pairs are PLAIN.
birthday     The same for random ports: one host opens `sockets` mappings towards the peer's endpoint, which probes
             `probes` random ports at `probes_per_s`: P(hit) of `punch.nat.birthday`. This requires NATs that drop. A
             RST (or ICMP error) ends every attempt that arrives before its pinhole is open. Behind a NAT that answers,
             a SYN is admitted if the probe of its port left less than one delay after it; if both NATs answer, also
             not more than one delay before it. So only the probes of one delay before and one after count; if only the
             prober's NAT answers, those of one delay after and all before, on average half as many ports as there are
             sockets.
portmap      A NAT with UPnP IGD, PCP or NAT-PMP maps a port on request, endpoint-independent in mapping and
             filtering: PLAIN with that behavior. It must be the only NAT in front of its host.
auto         The best of all. If a host's own SYNs would block a SYN that its NAT admits (the exception in
             `lab.oracle.outcome`), only the peer connects: PLAIN of a host that sends no SYNs.

Every strategy also connects to the registered endpoints, so none is worse than PLAIN. A probability below 1/2500 counts
as failure, and one above 1 - 1/2500 as certain success, as in `lab.oracle.outcome`.

Times are in seconds. Two hosts behind one NAT depend on hairpinning, and not on predicted ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from punchlab.lab.oracle import nesting
from punchlab.lab.oracle.outcome import Dial, Outcome, Prediction
from punchlab.punch.nat import birthday, port_prediction
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    PortMapping,
    Unsolicited,
)
from punchlab.punch.nat.syn_simulation import admits_anyone

SYNC_ATTEMPTS = 3
"""The number of DCUtR. After these attempts, the client connects as in PLAIN."""

_CERTAIN = 1 / 2500
_ALMOST_CERTAIN = 0.99
_KNOWN_AFTER_DELAYS, _KNOWN_AFTER_S = 4, 0.002
"""Time to measure a sequence and send the result to the peer: in delays of the path, and the minimum. Both are rough;
they only have to exceed one delay.
"""


@dataclass(frozen=True, slots=True)
class Guessing:
    """Parameters of port prediction: the traffic of other hosts through each NAT, and the number of predicted ports.

    `measured_s`, for A and B, is the time between the last allocation of a port that an edge saw and the allocation for
    the punch. None means one round trip, the minimum time to inform the peer. `rounds` is the number of rounds for two
    sequences, one second each.
    """

    background_per_s: float = 0.0
    measured_s: tuple[float | None, float | None] = (None, None)
    window: int = port_prediction.WINDOW
    rounds: int = 4
    sockets: int = birthday.OPENED
    probes: int = birthday.PROBES
    probes_per_s: float = birthday.PER_S


Nats = Sequence[NatBehavior]
"""The NATs in front of a host, innermost first, without the NATs that both hosts share."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """The input of a prediction. `shared` is the innermost NAT in front of both hosts."""

    a: Nats
    b: Nats
    dial: Dial
    shared: NatBehavior | None = None
    guessing: Guessing = Guessing()

    @property
    def plain(self) -> Prediction:
        """The prediction for hosts that connect to each other's registered endpoints."""
        return _plainly(tuple(self.a), tuple(self.b), self.dial, self.shared)


@lru_cache(maxsize=1024)
def _plainly(
    a: tuple[NatBehavior, ...], b: tuple[NatBehavior, ...], dial: Dial, shared: NatBehavior | None
) -> Prediction:
    # Strategies repeat the same prediction, and one with random draws takes a thousand runs.
    return nesting.predict_outcome(a, b, dial, shared)


def predict_outcome(strategy: str, pair: Dialling) -> Prediction:
    """Predict the outcome of the strategy. Raises ValueError if it is not in `STRATEGIES`."""
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy}: unknown strategy; expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](pair)


def _plain(pair: Dialling) -> Prediction:
    return pair.plain


def _sync(pair: Dialling) -> Prediction:
    if pair.dial.attempts is None:
        return pair.plain
    return replace(pair, dial=replace(pair.dial, attempts=pair.dial.attempts + SYNC_ATTEMPTS)).plain


def _lowttl(pair: Dialling) -> Prediction:
    silent = replace(pair, a=_dropping(pair.a), b=_dropping(pair.b))
    found = silent.plain
    if found == pair.plain or found.outcome is Outcome.FAILS:
        return found
    return replace(found, reason=f"low-TTL SYNs are not answered, and {found.reason}")


def _predict(pair: Dialling) -> Prediction:
    moving = _moving(pair)
    if all(map(_dependent, (pair.a, pair.b))) and pair.shared is None:
        return _predict_each_other(pair)
    if moving is None or not _allocating(moving).sequential:
        return pair.plain
    hit = port_prediction.probability(pair.guessing.window, pair.guessing.background_per_s, _wait_s(pair, moving))
    later_s = max(_KNOWN_AFTER_DELAYS * pair.dial.delay_s, _KNOWN_AFTER_S)
    dial = replace(pair.dial, skew_s=later_s if moving is pair.a else -later_s)
    known = replace(pair, a=_steady(pair.a), b=_steady(pair.b), dial=dial).plain
    if _answers(pair.a) and _answers(pair.b) and known.outcome is Outcome.DIRECT:
        hit = min(hit, _ALMOST_CERTAIN)  # every answered SYN uses a port of the sequence
    if _answers(pair.a) and _answers(pair.b) and known.outcome is Outcome.FAILS and pair.dial.attempts is None:
        # The client connects to many ports repeatedly, and every path has some delay: sometimes two SYNs cross.
        known = replace(known, outcome=Outcome.DEPENDS, probability=1 - _ALMOST_CERTAIN)
    return _better(pair.plain, _guessed(known, hit, "the peer knows the predicted port"))


def _predict_each_other(pair: Dialling) -> Prediction:
    sides = (pair.a, pair.b)
    if not all(_allocating(side).sequential for side in sides):
        return pair.plain
    rate = pair.guessing.background_per_s
    once = prod(port_prediction.probability(1, rate, _wait_s(pair, side)) for side in sides)
    hit = 1 - (1 - once) ** pair.guessing.rounds
    dial = replace(pair.dial, attempts=1)
    if all(map(_answers, sides)):
        # Every round has a different skew. With a delay, one round can have a skew below it.
        dial = replace(dial, skew_s=dial.skew_s if dial.delay_s == 0 else 0.0)
        hit = min(hit, _ALMOST_CERTAIN)
    known = replace(pair, a=_steady(pair.a), b=_steady(pair.b), dial=dial).plain
    return _better(pair.plain, _guessed(known, hit, "each host knows the other's predicted port"))


def _wait_s(pair: Dialling, side: Nats) -> float:
    """Return the seconds between the measurement of that side's sequence and the creation of its mapping."""
    measured_s = pair.guessing.measured_s[0 if side is pair.a else 1]
    return 2 * pair.dial.delay_s if measured_s is None else measured_s


def _birthday(pair: Dialling) -> Prediction:
    moving = _moving(pair)
    if moving is None:
        return pair.plain
    guessing, peer = pair.guessing, pair.b if moving is pair.a else pair.a
    probes = float(guessing.probes)
    if _answers(peer):
        of_one_delay = pair.dial.delay_s * guessing.probes_per_s
        probes = of_one_delay + (of_one_delay if _answers(moving) else guessing.sockets / 2)
    hit = birthday.collision(guessing.sockets, min(guessing.probes, round(probes)))
    silent = replace(pair, a=_dropping(_steady(pair.a)), b=_dropping(_steady(pair.b)))
    words = f"one of {guessing.probes} probes hits one of {guessing.sockets} ports"
    return _better(pair.plain, _guessed(silent.plain, hit, words))


def _moving(pair: Dialling) -> Nats | None:
    """Return the side whose port must be predicted, or None if there is no such side or both are."""
    found = [side for side in (pair.a, pair.b) if _dependent(side)]
    return found[0] if len(found) == 1 and pair.shared is None else None


def _dependent(side: Nats) -> bool:
    return any(nat.destination_dependent for nat in side)


def _answers(side: Nats) -> bool:
    """Return whether the side answers a SYN that it does not admit."""
    nat = nesting.in_series(side)
    return nat is not None and nat.unsolicited not in (Unsolicited.DROP, Unsolicited.SILENT_THEN_ICMP)


def _guessed(known: Prediction, hit: float, reason: str) -> Prediction:
    """Return the prediction if a predicted port is correct with probability `hit`, and the outcome then is `known`."""
    probability = hit * known.probability
    if probability < _CERTAIN:
        why = "no predicted port is correct in time" if hit < _CERTAIN else known.reason
        return Prediction(Outcome.FAILS, 0.0, why, None)
    if probability > 1 - _CERTAIN:
        return replace(known, outcome=Outcome.DIRECT, probability=1.0, reason=f"{reason}, and {known.reason}")
    reason = f"{reason} ({hit:.0%}), and {known.reason}"
    return replace(known, outcome=Outcome.DEPENDS, probability=probability, reason=reason)


def _portmap(pair: Dialling) -> Prediction:
    if pair.shared is not None:
        return pair.plain
    opened = replace(pair, a=_with_port_mapping(pair.a), b=_with_port_mapping(pair.b))
    if (opened.a, opened.b) == (pair.a, pair.b):
        return pair.plain
    found = opened.plain
    return _better(pair.plain, replace(found, reason=f"a NAT maps a port on request, and {found.reason}"))


def _auto(pair: Dialling) -> Prediction:
    found = {name: rule(pair) for name, rule in STRATEGIES.items() if name != "auto"}
    found["wait"] = _wait(pair)
    best = max(found, key=lambda name: found[name].probability)  # the first of equals, so the simplest strategy
    return found[best] if found[best].outcome is Outcome.FAILS else _named(best, found[best])


def _wait(pair: Dialling) -> Prediction:
    """Predict the outcome if a host whose NAT admits all SYNs sends none, so that only its registered mapping
    exists.
    """
    if pair.shared is not None or len(pair.a) > 1 or len(pair.b) > 1:
        return pair.plain
    open_a, open_b = (_steady(side) if all(map(admits_anyone, side)) else side for side in (pair.a, pair.b))
    return replace(pair, a=open_a, b=open_b).plain


def _named(strategy: str, found: Prediction) -> Prediction:
    return replace(found, reason=f"{strategy}: {found.reason}")


def _better(one: Prediction, other: Prediction) -> Prediction:
    return other if other.probability > one.probability else one


def _allocating(side: Nats) -> NatBehavior:
    """Return the NAT that determines the public port: the outermost one that does not preserve ports."""
    return next(
        (nat for nat in reversed(side) if nat.sequential or nat.port_allocation is not PortAllocation.PRESERVING),
        side[-1],
    )


def _dropping(side: Nats) -> Nats:
    return [replace(nat, unsolicited=Unsolicited.DROP, silence_s=_DROPPING.silence_s) for nat in side]


def _steady(side: Nats) -> Nats:
    """Return the NATs as seen by a peer that knows the ports of their mappings."""
    # Only the fields that a prediction uses: a constant mapping overloads no port.
    return [replace(_like(nat), filtering=nat.filtering) if nat.destination_dependent else nat for nat in side]


def _with_port_mapping(side: Nats) -> Nats:
    if len(side) != 1 or side[0].port_mapping is PortMapping.NONE:
        return side
    return [_like(side[0])]


def _like(nat: NatBehavior) -> NatBehavior:
    """Return a behavior with endpoint-independent mapping and filtering, with the answers of that NAT."""
    return replace(
        _DROPPING,
        unsolicited=nat.unsolicited,
        silence_s=nat.silence_s,
        icmp_errors=nat.icmp_errors,
        timeouts=nat.timeouts,
    )


_DROPPING = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ENDPOINT_INDEPENDENT,
    PortAllocation.PRESERVING,
    Unsolicited.DROP,
)

STRATEGIES: Mapping[str, Callable[[Dialling], Prediction]] = {
    "reuse": _plain,
    "keep": _plain,
    "sync": _sync,
    "lowttl": _lowttl,
    "predict": _predict,
    "birthday": _birthday,
    "portmap": _portmap,
    "auto": _auto,
}
"""Strategy name -> prediction."""
