"""The trials: every behavior of the toy with every pair of NATs, then random ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.lab.trial.verdicts.plan import Plan

PAIRS = (
    ("none", "none"),
    ("full_cone", "full_cone"),
    ("restricted_cone", "port_restricted_cone"),
    ("port_restricted_cone", "port_restricted_cone"),
    ("full_cone", "symmetric"),
    ("symmetric", "symmetric"),
)

KIB = 1024
_SIZES = (33 * KIB, 64 * KIB, 100_001, 1024 * KIB)
"""More than rendezvous messages may have, so that the path of the file is visible."""
_ANY_SIZES = (1, 4096, *_SIZES)


@dataclass(frozen=True, slots=True)
class Case:
    """One trial. `options` are those of the topology, `trial` those of `lab.trial.options.TrialOptions`."""

    name: str
    plan: Plan
    nats: tuple[str, str] = ("none", "none")
    topology: str = "pair"
    options: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64 * KIB

    def __str__(self) -> str:
        where = "x".join(self.nats) if self.topology in ("pair", "three") else self.topology
        return f"{self.name}-{where}-{self.size}"


_FAST: Mapping[str, Any] = {"deadline_s": 1.5, "transfer_s": 5.0}


def _deaths() -> Iterator[tuple[str, Plan]]:
    for number, (stage, death) in enumerate(
        itertools.product(("start", "known", "connected", "middle", "stored", "done"), ("exit", "kill", "failed"))
    ):
        who = ("sender", "receiver", "both")[number % 3]
        yield f"{death} at {stage}, {who}", Plan(stage=stage, death=death, who=who, outcome="client_error")


BEHAVIORS: Mapping[str, Plan] = {
    "direct": Plan(),
    "direct, three connections": Plan(streams=3),
    "direct, RST": Plan(close="rst"),
    "direct, half-closed": Plan(close="half"),
    "direct, the edge left first": Plan(early=True),
    "direct, the receiver dials": Plan(dials="receiver"),
    "direct, the sender dials": Plan(dials="sender"),
    "direct, Multipath TCP": Plan(path="mptcp", dials="receiver"),
    "direct, silent": Plan(word="silent"),
    "direct, boast": Plan(word="boast"),
    "direct, false endpoints": Plan(word="tuple"),
    "direct, says relayed": Plan(word="edge"),
    "direct, backwards": Plan(word="backwards"),
    "direct, says failed": Plan(word="sorry"),
    "direct, by a grandchild": Plan(child="worker"),
    "direct, a child keeps stdout": Plan(child="stdout"),
    "direct, a daemon stays": Plan(child="daemon"),
    "direct, a child keeps the connections": Plan(child="holder"),
    "relayed": Plan(path="relay"),
    "relayed, silent": Plan(path="relay", word="silent"),
    "relayed, boast": Plan(path="relay", word="boast"),
    "relayed, says direct": Plan(path="relay", word="peer"),
    "relayed, false endpoints": Plan(path="relay", word="tuple"),
    "relayed, RST": Plan(path="relay", close="rst"),
    "relayed, a child keeps the connections": Plan(path="relay", child="holder"),
    "relayed in addition to an idle connection": Plan(path="idle"),
    "relayed in addition to an idle connection, silent": Plan(path="idle", word="silent"),
    "relayed in addition to garbage": Plan(path="garbage"),
    "relayed in addition to garbage, RST": Plan(path="garbage", close="rst"),
    "half each way": Plan(path="half"),
    "half each way, says direct": Plan(path="half", word="peer"),
    "UDP": Plan(path="udp"),
    "UDP, says TCP": Plan(path="udp", word="peer"),
    "UDP, silent": Plan(path="udp", word="silent"),
    "UDP relayed": Plan(path="udp_relay"),
    "UDP relayed, says direct": Plan(path="udp_relay", word="peer"),
    "UDP-Lite": Plan(path="udplite"),
    "raw IP": Plan(path="raw"),
    "copied": Plan(path="disk"),
    "copied, boast": Plan(path="disk", word="boast"),
    "through a third host": Plan(path="third"),
    "says refused": Plan(stage="known", death="failed", who="both", outcome="refused"),
    "says punch_timeout": Plan(stage="known", death="failed", who="sender", outcome="punch_timeout"),
    "says wrong_peer": Plan(stage="connected", death="failed", who="receiver", outcome="wrong_peer"),
    "says no_rendezvous": Plan(stage="start", death="failed", who="sender", outcome="no_rendezvous"),
    "hangs at start, sender": Plan(stage="start", death="hang", who="sender"),
    "hangs when connected, receiver": Plan(stage="connected", death="hang", who="receiver"),
    "hangs at the end, deaf": Plan(stage="stored", death="deaf", who="receiver"),
    **dict(_deaths()),
}

_HANGS = {
    "both hang at start": Plan(stage="start", death="hang", who="both"),
    "both hang when connected": Plan(stage="connected", death="hang", who="both"),
    "both hang in the middle": Plan(stage="middle", death="hang", who="both"),
    "both hang in the middle of a relay": Plan(path="relay", stage="middle", death="deaf", who="both"),
    "both hang in the middle of UDP": Plan(path="udp", stage="middle", death="hang", who="both"),
    "both hang at the end": Plan(stage="done", death="hang", who="both"),
}


def _elsewhere() -> Iterator[Case]:
    """Other topologies, other answers to SYNs, slow links, and clients that do not exit."""
    cones = ("full_cone", "full_cone")
    for path in ("direct", "idle", "half"):
        yield Case(f"{path}, same LAN", Plan(path=path, place="private"), cones, "same_nat")
    for path in ("direct", "half", "relay", "udp"):
        yield Case(f"{path}, hairpin", Plan(path=path), ("cgn_rfc6888",) * 2, "same_nat")
        yield Case(f"{path}, below a carrier", Plan(path=path), cones, "carrier")
    for nats in (PAIRS[0], cones):
        yield Case("through a third host's NAT", Plan(place="third", dials="receiver"), nats, "three")
    for path in ("direct", "udp", "relay"):
        yield Case(f"{path}, NATs with pools", Plan(path=path), ("full_cone", "restricted_cone"), "pools")
    yield Case("direct, no hairpin", Plan(), ("symmetric",) * 2, "same_nat")
    for path in ("direct", "idle", "garbage"):
        yield Case(f"{path}, IPv6", Plan(path=path, place="ipv6"), ("firewall",) * 2, "firewalls")
        yield Case(f"{path}, IPv6 in addition to NATs", Plan(path=path, place="ipv6"), ("symmetric",) * 2, "dual_stack")
    for nats, size in itertools.product((PAIRS[0], cones), (1, 64 * KIB)):
        yield Case("data in the SYN", Plan(dials="sender", fast=True), nats, size=size)
    for path, answer in itertools.product(("direct", "udp", "relay"), ("reset", "host-prohibited")):
        options = {"unsolicited": answer, "delay": "0ms" if answer == "reset" else "10ms"}
        yield Case(f"{path} after {answer}", Plan(path=path), ("port_restricted_cone",) * 2, options=options)
        yield Case(f"{path} after {answer}", Plan(path=path), ("symmetric",) * 2, options=options)
    for path, nats in itertools.product(("direct", "relay", "garbage", "udp"), (PAIRS[0], cones)):
        slow: dict[str, Any] = {"options": {"bw": 0.5}, "trial": {"transfer_s": 2.0}, "size": 3 * 1024 * KIB}
        yield Case(f"{path}, slow", Plan(path=path), nats, **slow)
    for path, nats in itertools.product(("direct", "relay", "half", "udp"), (PAIRS[0], PAIRS[3])):
        lossy: dict[str, Any] = {
            "options": {"loss": 10},
            "trial": {"deadline_s": 6.0, "transfer_s": 20.0},
            "size": 48 * KIB,
        }
        yield Case(f"{path}, loss", Plan(path=path), nats, **lossy)
        yield Case(f"{path}, loss, RST", Plan(path=path, close="rst"), nats, **lossy)
    for (name, plan), nats in itertools.product(_HANGS.items(), (PAIRS[0], PAIRS[3])):
        yield Case(name, plan, nats, trial={"transfer_s": 1.0})


_SAMPLE_ELSEWHERE = (
    "direct, IPv6-firewalls-65536",
    "direct, same LAN-same_nat-65536",
    "data in the SYN-nonexnone-1",
)
_SAMPLE = {
    "direct": 3,
    "direct, three connections": 1,
    "direct, RST": 2,
    "direct, the edge left first": 5,
    "direct, the receiver dials": 4,
    "direct, Multipath TCP": 0,
    "direct, says relayed": 1,
    "direct, by a grandchild": 3,
    "direct, a child keeps stdout": 0,
    "direct, a child keeps the connections": 2,
    "relayed, silent": 5,
    "relayed, says direct": 1,
    "relayed in addition to an idle connection, silent": 2,
    "relayed in addition to garbage": 0,
    "half each way": 3,
    "UDP": 4,
    "UDP, says TCP": 1,
    "UDP relayed": 5,
    "raw IP": 0,
    "copied, boast": 2,
    "through a third host": 1,
    "says refused": 3,
    "kill at stored, receiver": 1,
    "exit at middle, sender": 0,
    "hangs at the end, deaf": 2,
}
"""One behavior of each kind, and its index of `PAIRS`."""
SAMPLE = len(_SAMPLE) + len(_SAMPLE_ELSEWHERE)
"""The number of trials in the sample."""


def cases(count: int, seed: int = 0) -> list[Case]:
    """Return the first `count` trials: the sample, then every other behavior with every pair of NATs, then random
    ones.
    """
    draw = random.Random(seed)
    table = {
        (name, number): Case(
            name, plan, nats, "three" if plan.path == "third" else "pair", {}, _FAST, _size(plan, draw)
        )
        for number, nats in enumerate(PAIRS)
        for name, plan in BEHAVIORS.items()
    }
    elsewhere = {str(case): replace(case, trial={**_FAST, **case.trial}) for case in _elsewhere()}
    sample = [table.pop(each) for each in _SAMPLE.items()]
    sample += [elsewhere.pop(name) for name in _SAMPLE_ELSEWHERE]
    every = [*table.values(), *elsewhere.values()]
    draw.shuffle(every)
    every[:0] = sample
    while len(every) < count:
        every.append(_drawn(draw))
    return every[:count]


def _size(plan: Plan, draw: random.Random) -> int:
    told_apart = plan.path in ("direct", "mptcp", "disk", "third", "udplite", "raw")
    return draw.choice(_ANY_SIZES if told_apart else _SIZES)


def _drawn(draw: random.Random) -> Case:
    plan = replace(
        draw.choice(list(BEHAVIORS.values())),
        word=draw.choice(("honest", "silent", "boast", "tuple", "edge", "peer", "backwards")),
        close=draw.choice(("fin", "rst", "half")),
        child=draw.choice(("none", "none", "worker", "daemon", "holder")),
    )
    topology = "three" if plan.path == "third" else "pair"
    options = {"delay": draw.choice(("0ms", "10ms", "40ms"))}
    return Case(f"drawn {plan}", plan, draw.choice(PAIRS), topology, options, _FAST, _size(plan, draw))
