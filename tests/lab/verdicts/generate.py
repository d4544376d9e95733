"""The trials: every behavior of the toy with every pair of NATs, then more of them with everything else drawn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.lab.verdicts.plan import Plan

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
"""Above what an introduction may take, so that it shows which way the file went."""
_ANY_SIZES = (1, 4096, *_SIZES)


@dataclass(frozen=True, slots=True)
class Case:
    """One trial to run. `options` are those of the topology, `trial` those of `lab.trial.Options`."""

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


_FAST = {"deadline_s": 1.5}
_SHORT = {"deadline_s": 1.5, "transfer_s": 1.0}


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
    "relayed beside an idle connection": Plan(path="idle"),
    "relayed beside an idle connection, silent": Plan(path="idle", word="silent"),
    "relayed beside garbage": Plan(path="garbage"),
    "relayed beside garbage, RST": Plan(path="garbage", close="rst"),
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
_ELSEWHERE: tuple[Case, ...] = (
    Case("same LAN", Plan(place="private"), ("full_cone", "full_cone"), "same_nat"),
    Case("same LAN, idle", Plan(path="idle", place="private"), ("full_cone", "full_cone"), "same_nat"),
    Case("hairpin", Plan(), ("full_cone", "full_cone"), "same_nat"),
    Case("hairpin, half each way", Plan(path="half"), ("full_cone", "full_cone"), "same_nat"),
    Case("no hairpin", Plan(), ("symmetric", "symmetric"), "same_nat"),
    Case("below a carrier", Plan(), ("full_cone", "full_cone"), "carrier"),
    Case("below a carrier, relayed", Plan(path="relay"), ("full_cone", "full_cone"), "carrier"),
    Case("below a carrier, UDP", Plan(path="udp"), ("full_cone", "full_cone"), "carrier"),
    Case("IPv6", Plan(place="ipv6"), ("firewall", "firewall"), "firewalls"),
    Case("IPv6, idle", Plan(path="idle", place="ipv6"), ("firewall", "firewall"), "firewalls"),
    Case("IPv6 beside NATs", Plan(place="ipv6"), ("symmetric", "symmetric"), "dual_stack"),
    Case("data in the SYN", Plan(dials="sender", fast=True)),
    Case("data in the SYN, one byte", Plan(dials="sender", fast=True), size=1),
    Case("data in the SYN", Plan(dials="sender", fast=True), ("full_cone", "full_cone")),
    *(
        Case(f"{kind} after {answer}", Plan(path=kind), ("port_restricted_cone",) * 2, "pair", {"unsolicited": answer, "delay": "0ms"})
        for kind in ("direct", "udp")
        for answer in ("reset", "host-prohibited")
    ),
    Case("says punch_timeout of a refusal", Plan(dials="sender", stage="connected", who="receiver"), ("none", "symmetric"), options={"unsolicited": "reset"}),
    *(
        Case(name, plan, nats, options={"bw": 0.5}, trial={**_FAST, "transfer_s": 2.0}, size=1024 * KIB)
        for name, plan in (("slow", Plan()), ("slow, relayed", Plan(path="relay")), ("slow, garbage", Plan(path="garbage")), ("slow, UDP", Plan(path="udp")))
        for nats in (PAIRS[0], PAIRS[1])
    ),
    *(
        Case(name, plan, nats, options={"loss": 10}, trial={"deadline_s": 6.0, "transfer_s": 20.0}, size=48 * KIB)
        for name, plan in (("loss", Plan()), ("loss, relayed", Plan(path="relay")), ("loss, half each way", Plan(path="half")), ("loss, UDP", Plan(path="udp")), ("loss, RST", Plan(close="rst")))
        for nats in (PAIRS[0], PAIRS[3])
    ),
)


def cases(count: int, seed: int = 0) -> list[Case]:
    """The first `count` trials: a sample of all kinds, however few."""
    draw = random.Random(seed)
    every = [
        Case(name, plan, nats, "three" if plan.path == "third" else "pair", {}, _FAST, _size(plan, draw))
        for nats in PAIRS
        for name, plan in BEHAVIORS.items()
    ]
    every += [Case(name, plan, nats, trial=_SHORT) for nats in (PAIRS[0], PAIRS[3]) for name, plan in _HANGS.items()]
    every += [replace(case, trial={**_FAST, **case.trial}) for case in _ELSEWHERE]
    draw.shuffle(every)
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
