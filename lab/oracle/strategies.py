"""What each strategy of the client makes of a pair of NATs, on top of what plain dialling gives.

Theory. `lab.oracle.outcome` (for NATs in a row `lab.oracle.nesting`) predicts two hosts that dial each other's
registered endpoints: PLAIN below. A strategy changes one premise of that, and is predicted by changing the same
premise:

reuse, keep  PLAIN. Whether the connection to the edge is closed first is not asked: no behavior here forgets a mapping
             with its connection.
sync         PLAIN with three attempts more, and with what the agreed instant leaves of the skew (Seemann, Inden,
             Vyzovitis, "Decentralized Hole Punching", 2022: DCUtR).
lowttl       The opening SYNs die between the NATs, so neither NAT ever answers one: PLAIN with NATs that drop. The
             router on the way says "time exceeded" (RFC 792), which ends a connect() on Linux (EHOSTUNREACH), but shuts
             no door; the client dials on at once, so that an attempt is alive when the peer's SYN comes in, and the
             trap of the oracle's ICMP errors is not sprung. It does nothing for mappings that depend on the
             destination. (Guha, Takeda, Francis, "NUTSS", 2004, section 4: STUNT; Guha and Francis, IMC 2005.)
predict      One host's mapping depends on the destination, its ports come in sequence, and the other's does not depend.
             Its SYN leaves, its port is told to the peer with those around it, `window` at most, and the peer dials
             them: P = P(hit) x PLAIN(of a mapping that does not depend, and a peer that dials later). With Poisson
             arrivals of `background_per_s` in the `measured_s` between the look at the sequence and the SYN, P(hit) =
             P(Poisson < window). Where the ports of both come in sequence, each looks and tells, and dials the one port
             that follows: nobody else may take it on either side, P(Poisson = 0) of both, in `rounds` rounds. Anything
             else is dialled plainly.
birthday     The same for any ports: one host opens `sockets` mappings towards the peer's endpoint, which probes
             `probes` ports at random, `probes_per_s`: P(hit) of `punch.nat.birthday`. That is for NATs that drop. A
             RST (or ICMP error) ends whatever arrives before its door is open: behind a NAT that answers, a SYN gets in
             if the probe of its port left less than a delay after it, and where both answer, not more than a delay
             before it either. So of the probes count those of one delay before and one after; or, where only the
             prober's NAT answers, those of one delay and all before, on average of half as many ports as there are
             sockets.
portmap      A NAT that speaks UPnP IGD, PCP or NAT-PMP is asked for a port, which admits anyone and is the same for
             all: PLAIN with that mapping and filtering. It must be the only NAT in front of its host.
auto         The best of all; and where a host's own dialling would keep out a SYN that its NAT admits (the oracle's
             exception), only the peer dials: PLAIN of a host that does not.

Every strategy dials the registered endpoints as well, so none is worse than PLAIN. A probability below 1/2500 counts as
none, and one above 1 - 1/2500 as certain: what one trial contradicts no oftener than that is the oracle's certainty.

Times are in seconds. Two hosts behind one NAT meet (or not) by hairpinning, whatever the strategy guesses.
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
"""As DCUtR has it; after these the client dials plainly."""

_CERTAIN = 1 / 2500
_UNSURE = 0.99
_TOLD_AFTER_DELAYS, _TOLD_AFTER_S = 4, 0.002
"""A look and its answer, and the way of what it found to the peer, in delays of the path, and at least: rough figures,
of which only matters that they are more than one delay."""


@dataclass(frozen=True, slots=True)
class Guessing:
    """What guesses hang on: the traffic of other hosts through each NAT, and how many guesses the client makes.

    `measured_s`, of A and of B: from when its NAT allocated the last port that an edge saw until it allocates the one
    of the punch; None for one round trip at the path's delay, which is what telling the peer takes at least. `rounds`
    are those of two sequences, of a second each.
    """

    background_per_s: float = 0.0
    measured_s: tuple[float | None, float | None] = (None, None)
    window: int = port_prediction.WINDOW
    rounds: int = 4
    sockets: int = birthday.OPENED
    probes: int = birthday.PROBES
    probes_per_s: float = birthday.PER_S


Nats = Sequence[NatBehavior]
"""In front of one host, from the host outwards; those that its peer is behind as well are left out."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """All that a prediction is made of; `shared` is the innermost NAT in front of both."""

    a: Nats
    b: Nats
    dial: Dial
    shared: NatBehavior | None = None
    guessing: Guessing = Guessing()

    @property
    def plain(self) -> Prediction:
        """Of hosts that dial each other's registered endpoints."""
        return _plainly(tuple(self.a), tuple(self.b), self.dial, self.shared)


@lru_cache(maxsize=1024)
def _plainly(
    a: tuple[NatBehavior, ...], b: tuple[NatBehavior, ...], dial: Dial, shared: NatBehavior | None
) -> Prediction:
    # Strategies ask the same again and again, and chance takes a thousand runs.
    return nesting.predict(a, b, dial, shared)


def predict(strategy: str, pair: Dialling) -> Prediction:
    """What comes of the strategy. Raises `ValueError` for one that is not in `STRATEGIES`."""
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy}: nothing is known of this strategy; expected one of {', '.join(STRATEGIES)}")
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
    return replace(found, reason=f"SYNs that die on the way are not answered, and {found.reason}")


def _predict(pair: Dialling) -> Prediction:
    moving = _moving(pair)
    if all(map(_dependent, (pair.a, pair.b))) and pair.shared is None:
        return _predict_each_other(pair)
    if moving is None or not _allocating(moving).sequential:
        return pair.plain
    hit = port_prediction.probability(pair.guessing.window, pair.guessing.background_per_s, _wait_s(pair, moving))
    later_s = max(_TOLD_AFTER_DELAYS * pair.dial.delay_s, _TOLD_AFTER_S)
    dial = replace(pair.dial, skew_s=later_s if moving is pair.a else -later_s)
    known = replace(pair, a=_steady(pair.a), b=_steady(pair.b), dial=dial).plain
    if _refuses(pair.a) and _refuses(pair.b) and known.outcome is Outcome.DIRECT:
        hit = min(hit, _UNSURE)  # every refusal takes a port of the sequence
    if _refuses(pair.a) and _refuses(pair.b) and known.outcome is Outcome.FAILS and pair.dial.attempts is None:
        # Many ports are dialled again and again, and no path is as short as none: now and then two SYNs cross.
        known = replace(known, outcome=Outcome.DEPENDS, probability=1 - _UNSURE)
    return _better(pair.plain, _guessed(known, hit, "the port in the sequence is told"))


def _predict_each_other(pair: Dialling) -> Prediction:
    sides = (pair.a, pair.b)
    if not all(_allocating(side).sequential for side in sides):
        return pair.plain
    rate = pair.guessing.background_per_s
    once = prod(port_prediction.probability(1, rate, _wait_s(pair, side)) for side in sides)
    hit = 1 - (1 - once) ** pair.guessing.rounds
    dial = replace(pair.dial, attempts=1)
    if all(map(_refuses, sides)):
        # Every round has a skew of its own, and one of them may do where there is a delay that it can be less than.
        dial = replace(dial, skew_s=dial.skew_s if dial.delay_s == 0 else 0.0)
        hit = min(hit, _UNSURE)
    known = replace(pair, a=_steady(pair.a), b=_steady(pair.b), dial=dial).plain
    return _better(pair.plain, _guessed(known, hit, "each host's next port in the sequence is told"))


def _wait_s(pair: Dialling, side: Nats) -> float:
    """From the look at the sequence of that side until its mapping is made, seconds."""
    measured_s = pair.guessing.measured_s[0 if side is pair.a else 1]
    return 2 * pair.dial.delay_s if measured_s is None else measured_s


def _birthday(pair: Dialling) -> Prediction:
    moving = _moving(pair)
    if moving is None:
        return pair.plain
    guessing, peer = pair.guessing, pair.b if moving is pair.a else pair.a
    probes = float(guessing.probes)
    if _refuses(peer):
        of_one_delay = pair.dial.delay_s * guessing.probes_per_s
        probes = of_one_delay + (of_one_delay if _refuses(moving) else guessing.sockets / 2)
    hit = birthday.collision(guessing.sockets, min(guessing.probes, round(probes)))
    silent = replace(pair, a=_dropping(_steady(pair.a)), b=_dropping(_steady(pair.b)))
    words = f"one of {guessing.probes} probes finds one of {guessing.sockets} ports"
    return _better(pair.plain, _guessed(silent.plain, hit, words))


def _moving(pair: Dialling) -> Nats | None:
    """The side whose port must be guessed; None where there is no such side, or not one alone."""
    found = [side for side in (pair.a, pair.b) if _dependent(side)]
    return found[0] if len(found) == 1 and pair.shared is None else None


def _dependent(side: Nats) -> bool:
    return any(nat.destination_dependent for nat in side)


def _refuses(side: Nats) -> bool:
    """Whether a SYN that is not admitted there is answered."""
    nat = nesting.in_a_row(side)
    return nat is not None and nat.unsolicited not in (Unsolicited.DROP, Unsolicited.SILENT_THEN_ICMP)


def _guessed(known: Prediction, hit: float, words: str) -> Prediction:
    """The prediction where a guess is right with that probability, and then it goes as is `known`."""
    probability = hit * known.probability
    if probability < _CERTAIN:
        missed = "no guess finds the port in time" if hit < _CERTAIN else known.reason
        return Prediction(Outcome.FAILS, 0.0, missed, None)
    if probability > 1 - _CERTAIN:
        return replace(known, outcome=Outcome.DIRECT, probability=1.0, reason=f"{words}, and {known.reason}")
    reason = f"{words} ({hit:.0%}), and {known.reason}"
    return replace(known, outcome=Outcome.DEPENDS, probability=probability, reason=reason)


def _portmap(pair: Dialling) -> Prediction:
    if pair.shared is not None:
        return pair.plain
    opened = replace(pair, a=_opened(pair.a), b=_opened(pair.b))
    if (opened.a, opened.b) == (pair.a, pair.b):
        return pair.plain
    found = opened.plain
    return _better(pair.plain, replace(found, reason=f"a NAT has mapped a port on request, and {found.reason}"))


def _auto(pair: Dialling) -> Prediction:
    found = {name: rule(pair) for name, rule in STRATEGIES.items() if name != "auto"}
    found["wait"] = _wait(pair)
    best = max(found, key=lambda name: found[name].probability)  # the first of equals: the plain ones come first
    return found[best] if found[best].outcome is Outcome.FAILS else _named(best, found[best])


def _wait(pair: Dialling) -> Prediction:
    """One host dials, the other, whose NAT admits anyone, does not: so its registered mapping is the only one."""
    if pair.shared is not None or len(pair.a) > 1 or len(pair.b) > 1:
        return pair.plain
    open_a, open_b = (_steady(side) if all(map(admits_anyone, side)) else side for side in (pair.a, pair.b))
    return replace(pair, a=open_a, b=open_b).plain


def _named(strategy: str, said: Prediction) -> Prediction:
    return replace(said, reason=f"{strategy}: {said.reason}")


def _better(one: Prediction, other: Prediction) -> Prediction:
    return other if other.probability > one.probability else one


def _allocating(side: Nats) -> NatBehavior:
    """The NAT whose choice of ports the Internet sees: the outermost that does not keep the port it gets."""
    return next(
        (nat for nat in reversed(side) if nat.sequential or nat.port_allocation is not PortAllocation.PRESERVING),
        side[-1],
    )


def _dropping(side: Nats) -> Nats:
    return [replace(nat, unsolicited=Unsolicited.DROP, silence_s=_DROPPING.silence_s) for nat in side]


def _steady(side: Nats) -> Nats:
    """The NATs as somebody meets them who knows the port that they will take."""
    # Only what a prediction is made of: a mapping that stays overloads nothing.
    return [replace(_like(nat), filtering=nat.filtering) if nat.destination_dependent else nat for nat in side]


def _opened(side: Nats) -> Nats:
    if len(side) != 1 or side[0].port_mapping is PortMapping.NONE:
        return side
    return [_like(side[0])]


def _like(nat: NatBehavior) -> NatBehavior:
    """A mapping that is the same for all and admits anyone, with the answers of that NAT."""
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
"""Name on the command line -> how it is predicted."""
