"""`auto`: finds out what both NATs are like, and begins with what suits them.

Before it registers each client looks at its own NAT (`punch.strategy.traits`, about a second) and tells the peer by way
of the registration. Then both know the same two NATs and choose the same plan, by the rules of the oracle
(`punch.nat.dialling`); nothing more is said before the first SYN:

- One host's SYN is admitted as soon as both have dialled: both dial at once (`keep`).
- The same, but both NATs answer a SYN that comes too early, and that would shut the door; or one does by an ICMP error,
  which ends the attempt and leaves the door: the trap that `lab.oracle.outcome` tells of. `lowttl`.
- A host's own dialling would keep the peer's SYN out, which would be admitted otherwise: only the peer dials.
- A mapping depends on the destination: a port that was asked for (`portmap`), ports in sequence (`predict`, of one
  host or of both), or many ports against many guesses where the other side's port is known (`birthday`).
- The same, but the other side's NAT answers SYNs: only the guesses of one round trip count, so `birthday` is tried for
  a moment, and then it is hopeless.
- Nothing of that: hopeless. Since a look may be wrong, both dial for a moment all the same, and give up then.

Hosts behind one NAT, and hosts of whose NATs too little is known, dial at once; so do hopeless ones that have IPv6,
which is dialled beside every plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from punchlab.punch.errors import PunchFailedError
from punchlab.punch.frames import MAX_TRAITS, Role
from punchlab.punch.nat.behavior import FilteringBehavior, PortAllocation, Unsolicited
from punchlab.punch.nat.dialling import admits_dialled, occupies
from punchlab.punch.strategy import traits
from punchlab.punch.strategy.catalog import STRATEGIES
from punchlab.punch.strategy.meeting import Meeting, Preparation, Strategy
from punchlab.punch.strategy.traits import Traits

HOPELESS_AFTER_S = 1.5
"""How long a hopeless pair dials all the same: a SYN that was lost is sent again in this time."""

PREPARATION_S = 2.0
"""How long one strategy may take to prepare: a gateway that maps no ports may not answer at all."""

Name = Literal["keep", "lowttl", "wait", "portmap", "predict", "birthday", "hopeless"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to begin, and why.

    `dialler`: with `wait`, who dials alone. `forlorn`: to be given up soon, for that `why`.
    """

    name: Name
    why: str
    dialler: Role | None = None
    forlorn: bool = False


@dataclass(frozen=True, slots=True)
class SideTraits:
    """One client as both know it: its NAT, and for which strategies it is prepared."""

    nat: Traits
    prepared: frozenset[str] = frozenset()


class Auto(Strategy):
    """See the top of this module."""

    def __init__(self) -> None:
        self._own = Traits()
        self._prepared: dict[str, Strategy] = {}
        self._told: dict[str, str] = {}

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`: looks at the own NAT, and prepares what a NAT like that may need."""
        self._prepared, self._told = {}, {}  # what was learned for an earlier registration may have changed
        self._own = await traits.look(preparation.edge, preparation.stun)
        preparation.report("own_nat", **self._own.to_json(), words=str(self._own))
        needed = _needed(self._own)
        self._prepared = {name: STRATEGIES[name]() for name in needed}
        for name, told in zip(
            needed, await asyncio.gather(*(self._ask(name, preparation) for name in needed)), strict=True
        ):
            if told is not None and len(self._text({**self._told, name: told})) <= MAX_TRAITS:
                self._told[name] = told
        return self._text(self._told)

    async def _ask(self, name: str, preparation: Preparation) -> str | None:
        """What one strategy has to tell the peer, if it knows in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARATION_S):
                return await self._prepared[name].prepare(preparation)
        return None

    def _text(self, told: dict[str, str]) -> str:
        # Without the latest port: a client that registers again behind the same NAT has the same traits, and so the
        # same key as a peer that knows only its earlier registration.
        nat = replace(self._own, port=None).to_json()
        return json.dumps({"nat": nat, "told": told}, separators=(",", ":"))

    async def close(self) -> None:
        """See `Strategy`."""
        await asyncio.gather(*(strategy.close() for strategy in self._prepared.values()))

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        peer = traits.read(meeting.peer.contact.traits)
        peer_nat, peer_told = Traits.of_json(peer.get("nat")), _strings(peer.get("told"))
        sides = [SideTraits(self._own, frozenset(self._told)), SideTraits(peer_nat, frozenset(peer_told))]
        sender, receiver = sides if meeting.role == "sender" else sides[::-1]
        neighbors = meeting.own.public.ip == meeting.peer.contact.public.ip
        plan = choose(sender, receiver, neighbors=neighbors)
        if plan.forlorn and meeting.beside:
            plan = Plan("keep", "the NATs let hardly anything through, but both hosts have IPv6; dialling at once")
        if plan.name in ("keep", "hopeless") or (plan.name == "wait" and plan.dialler == meeting.role):
            await meeting.start()
            meeting.fire()
        _report(meeting, plan, self._own, peer_nat)
        if not plan.forlorn:
            await self._follow(plan, meeting, peer_told)
            return
        await meeting.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOPELESS_AFTER_S):
                await self._follow(plan, meeting, peer_told)
                await asyncio.get_running_loop().create_future()
        raise PunchFailedError("hopeless", plan.why)

    async def _follow(self, plan: Plan, meeting: Meeting, peer_told: Mapping[str, str]) -> None:
        """What the plan has besides dialling at once."""
        if plan.name == "wait" and plan.dialler != meeting.role:
            meeting.begin_key()
            meeting.puncher.accept()
        elif plan.name not in ("keep", "wait", "hopeless"):
            strategy = self._prepared.get(plan.name) or STRATEGIES[plan.name]()
            self._prepared[plan.name] = strategy
            contact = replace(meeting.peer.contact, traits=peer_told.get(plan.name))
            told = self._told.get(plan.name)
            await strategy.punch(replace(meeting, traits=told, peer=replace(meeting.peer, contact=contact)))


def choose(sender: SideTraits, receiver: SideTraits, *, neighbors: bool = False) -> Plan:
    """The plan for two clients, the same on both; `neighbors` have one public address."""
    if neighbors:
        return Plan("keep", "both are behind one address; dialling at once, private addresses first")
    if not (sender.nat.known and receiver.nat.known):
        return Plan("keep", "too little is known of the NATs; dialling at once")
    nats: dict[Role, Traits] = {"sender": sender.nat, "receiver": receiver.nat}
    behaviors = {role: nat.behavior for role, nat in nats.items()}
    waits: Role | None = None
    for dialler, other in _ORDERS:
        if admits_dialled(behaviors[other], behaviors[dialler]):
            if not occupies(behaviors[other], behaviors[dialler]):
                return _dial_at_once(sender.nat, receiver.nat)
            waits = other
    if waits is not None:
        dialler = "sender" if waits == "receiver" else "receiver"
        return Plan("wait", f"the {waits}'s NAT admits anyone as long as the {waits} does not dial", dialler)
    return _guess(sender, receiver)


_ORDERS: tuple[tuple[Role, Role], ...] = (("sender", "receiver"), ("receiver", "sender"))


def _dial_at_once(sender: Traits, receiver: Traits) -> Plan:
    both = (sender, receiver)
    strict = all(nat.filtering is FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT for nat in both)
    if strict and all(nat.refuses for nat in both):
        return Plan(
            "lowttl", "both NATs answer a SYN that comes too early; opening one with a SYN that ends on the way"
        )
    if any(map(_traps, both)) and not any(nat.dependent or nat.behavior is None for nat in both):
        why = "a NAT answers a SYN that comes too early by an ICMP error; opening one with a SYN that ends on the way"
        return Plan("lowttl", why)
    return Plan("keep", "the NATs let the two meet; dialling at once")


def _traps(nat: Traits) -> bool:
    """Whether it may end the peer's attempt by an ICMP error: the door behind it stays, and leads nowhere."""
    errors = nat.unsolicited not in (None, Unsolicited.DROP, Unsolicited.RESET)
    return errors and nat.filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT


def _guess(sender: SideTraits, receiver: SideTraits) -> Plan:
    """Where the registered ports are of no use."""
    sides = (sender, receiver)
    hard = [side.nat for side in sides if side.nat.dependent]
    if any("portmap" in side.prepared for side in sides):
        return Plan("portmap", "one NAT lends a port when asked")
    if all(nat.allocation is PortAllocation.SEQUENTIAL for nat in hard):
        return Plan("predict", "ports are allocated in sequence, so the next one can be told")
    easy = next((side.nat for side in sides if not side.nat.dependent), None)
    if easy is None:
        return Plan(
            "hopeless",
            "both NATs use another port for each destination, so that neither side can tell where the other will "
            "come from",
            forlorn=True,
        )
    if easy.refuses:
        return Plan(
            "birthday",
            "one NAT uses another port for each destination, and the other answers the SYNs that are sent there, which "
            "shuts almost every door at once",
            forlorn=True,
        )
    return Plan("birthday", "one NAT draws a port for each destination; trying many")


def _needed(nat: Traits) -> list[str]:
    """What to prepare before it is known who the peer is."""
    if not nat.dependent:
        return []
    return ["portmap", "predict"] if nat.allocation is PortAllocation.SEQUENTIAL else ["portmap", "birthday"]


def _report(meeting: Meeting, plan: Plan, own: Traits, peer: Traits) -> None:
    meeting.report("strategy", name=plan.name, why=plan.why, own=str(own), peer=str(peer))


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}
