"""`auto`: measures both NATs and chooses a strategy.

Before it registers, each client measures its own NAT (`punch.strategy.traits`, about a second) and sends the result to
the peer with its registration. Both clients then know the same two NATs and choose the same plan, by the rules of the
outcome prediction (`punch.nat.syn_simulation`), without further messages before the first SYN:

- One host's SYN is accepted once both have connected: both connect at once (`keep`).
- The same, but both NATs answer an early SYN by RST or ICMP, which would close the pinhole; or one NAT answers by an
  ICMP error, which ends the attempt and leaves the pinhole open, as `lab.oracle.outcome` explains: `lowttl`.
- A host's own SYN would block the peer's SYN, which would be accepted otherwise: only the peer connects.
- A mapping depends on the destination: a requested port mapping (`portmap`), sequential ports (`predict`, of one host
  or of both), or many ports against many guesses if the other side's port is known (`birthday`).
- The same, but the other side's NAT answers SYNs: only guesses within one round trip can succeed, so `birthday` is
  tried briefly, and then the punch is hopeless.
- Otherwise the punch is hopeless. Since a measurement may be wrong, both connect briefly before they give up.

Hosts behind one NAT connect at once, and so do hosts whose NATs are not known well enough, and hosts with a hopeless
plan that have IPv6. IPv6 connections run in parallel with every plan.
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
from punchlab.punch.nat.syn_simulation import admits_dialled, occupies
from punchlab.punch.strategy import traits
from punchlab.punch.strategy.catalog import STRATEGIES
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy
from punchlab.punch.strategy.traits import Traits

HOPELESS_AFTER_S = 1.5
"""How long a hopeless pair tries to connect, in seconds; long enough for one retransmission of a SYN."""

PREPARATION_S = 2.0
"""Timeout of the preparation of one strategy, in seconds: a gateway without port mapping may not answer."""

Name = Literal["keep", "lowttl", "wait", "portmap", "predict", "birthday", "hopeless"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen strategy and the reason.

    `dialler`: with `wait`, the only role that connects. `give_up`: give up soon, for the reason `why`.
    """

    name: Name
    why: str
    dialler: Role | None = None
    give_up: bool = False


@dataclass(frozen=True, slots=True)
class SideTraits:
    """What both clients know of one client: its NAT, and the strategies that it has prepared."""

    nat: Traits
    prepared: frozenset[str] = frozenset()


class Auto(Strategy):
    """See the module docstring."""

    def __init__(self) -> None:
        self._own = Traits()
        self._prepared: dict[str, Strategy] = {}
        self._texts: dict[str, str] = {}

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`: measures the own NAT, and prepares the strategies that it may need."""
        self._prepared, self._texts = {}, {}  # the results of an earlier registration may be outdated
        self._own = await traits.measure(preparation.edge, preparation.stun)
        preparation.report("own_nat", **self._own.to_json(), words=str(self._own))
        needed = _needed(self._own)
        self._prepared = {name: STRATEGIES[name]() for name in needed}
        for name, text in zip(
            needed, await asyncio.gather(*(self._ask(name, preparation) for name in needed)), strict=True
        ):
            if text is not None and len(self._text({**self._texts, name: text})) <= MAX_TRAITS:
                self._texts[name] = text
        return self._text(self._texts)

    async def _ask(self, name: str, preparation: Preparation) -> str | None:
        """Return the text of one strategy for the peer, if it is ready in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARATION_S):
                return await self._prepared[name].prepare(preparation)
        return None

    def _text(self, texts: dict[str, str]) -> str:
        # The latest port is left out, so that a client that registers again behind the same NAT has the same traits. A
        # peer that knows only its earlier registration then has the same key.
        nat = replace(self._own, port=None).to_json()
        return json.dumps({"nat": nat, "told": texts}, separators=(",", ":"))

    async def close(self) -> None:
        """See `Strategy`."""
        await asyncio.gather(*(strategy.close() for strategy in self._prepared.values()))

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        peer = traits.read(context.peer.contact.traits)
        peer_nat, peer_texts = Traits.of_json(peer.get("nat")), _strings(peer.get("told"))
        sides = [SideTraits(self._own, frozenset(self._texts)), SideTraits(peer_nat, frozenset(peer_texts))]
        sender, receiver = sides if context.role == "sender" else sides[::-1]
        neighbors = context.own.public.ip == context.peer.contact.public.ip
        plan = choose(sender, receiver, neighbors=neighbors)
        if plan.give_up and context.targets6:
            plan = Plan("keep", "the NATs let hardly anything through, but both hosts have IPv6; connecting at once")
        if plan.name in ("keep", "hopeless") or (plan.name == "wait" and plan.dialler == context.role):
            await context.start()
            context.connect_all()
        _report(context, plan, self._own, peer_nat)
        if not plan.give_up:
            await self._follow(plan, context, peer_texts)
            return
        await context.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOPELESS_AFTER_S):
                await self._follow(plan, context, peer_texts)
                await asyncio.get_running_loop().create_future()
        raise PunchFailedError("hopeless", plan.why)

    async def _follow(self, plan: Plan, context: PunchContext, peer_texts: Mapping[str, str]) -> None:
        """Run the part of the plan that follows connecting at once."""
        if plan.name == "wait" and plan.dialler != context.role:
            context.begin_key()
            context.puncher.accept()
        elif plan.name not in ("keep", "wait", "hopeless"):
            strategy = self._prepared.get(plan.name) or STRATEGIES[plan.name]()
            self._prepared[plan.name] = strategy
            contact = replace(context.peer.contact, traits=peer_texts.get(plan.name))
            own_text = self._texts.get(plan.name)
            await strategy.punch(replace(context, traits=own_text, peer=replace(context.peer, contact=contact)))


def choose(sender: SideTraits, receiver: SideTraits, *, neighbors: bool = False) -> Plan:
    """Return the plan for two clients, which is the same on both; `neighbors` have one public address."""
    if neighbors:
        return Plan("keep", "both have the same public address; connecting at once, host candidates first")
    if not (sender.nat.known and receiver.nat.known):
        return Plan("keep", "the NATs are not known well enough; connecting at once")
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
        return Plan("wait", f"the {waits}'s NAT accepts any endpoint as long as the {waits} does not connect", dialler)
    return _guess(sender, receiver)


_ORDERS: tuple[tuple[Role, Role], ...] = (("sender", "receiver"), ("receiver", "sender"))


def _dial_at_once(sender: Traits, receiver: Traits) -> Plan:
    both = (sender, receiver)
    strict = all(nat.filtering is FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT for nat in both)
    if strict and all(nat.refuses for nat in both):
        return Plan(
            "lowttl", "both NATs reject an early SYN; opening a pinhole with a SYN that expires before the peer's NAT"
        )
    if any(map(_ends_attempts, both)) and not any(nat.dependent or nat.behavior is None for nat in both):
        why = "a NAT answers an early SYN by ICMP; opening a pinhole with a SYN that expires before the peer's NAT"
        return Plan("lowttl", why)
    return Plan("keep", "the NATs accept the SYN of one host once both have connected; connecting at once")


def _ends_attempts(nat: Traits) -> bool:
    """Return whether it may end the peer's attempt by an ICMP error, which leaves an unused pinhole open."""
    errors = nat.unsolicited not in (None, Unsolicited.DROP, Unsolicited.RESET)
    return errors and nat.filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT


def _guess(sender: SideTraits, receiver: SideTraits) -> Plan:
    """Return a plan for NATs whose registered ports cannot be used."""
    sides = (sender, receiver)
    hard = [side.nat for side in sides if side.nat.dependent]
    if any("portmap" in side.prepared for side in sides):
        return Plan("portmap", "one NAT provides port mappings")
    if all(nat.allocation is PortAllocation.SEQUENTIAL for nat in hard):
        return Plan("predict", "ports are allocated in sequence, so the next one can be predicted")
    easy = next((side.nat for side in sides if not side.nat.dependent), None)
    if easy is None:
        return Plan(
            "hopeless",
            "both NATs use another port for each destination, so that neither side can predict the other's port",
            give_up=True,
        )
    if easy.refuses:
        return Plan(
            "birthday",
            "one NAT uses another port for each destination, and the other rejects the SYNs to these ports, which "
            "closes almost every pinhole at once",
            give_up=True,
        )
    return Plan("birthday", "one NAT uses a random port for each destination; trying many")


def _needed(nat: Traits) -> list[str]:
    """Return the strategies to prepare before the peer is known."""
    if not nat.dependent:
        return []
    return ["portmap", "predict"] if nat.allocation is PortAllocation.SEQUENTIAL else ["portmap", "birthday"]


def _report(context: PunchContext, plan: Plan, own: Traits, peer: Traits) -> None:
    context.report("strategy", name=plan.name, why=plan.why, own=str(own), peer=str(peer))


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}
