"""Examine what a probe cannot observe of a NAT: idle timeouts, and the effect of single segments on its state.

This needs both ends of a lab, an inside host and a server. On the real Internet, use `punch probe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from punchlab.lab.check.segments import SILENCE_S, Conversation, Flag, RawTcp, block_resets, checksum
from punchlab.lab.check.states import MARGIN_S, TOO_BUSY, NotBegunError, Pilot, State, arrived, datagram
from punchlab.lab.check.waiting import within
from punchlab.lab.check.watch import Watch
from punchlab.lab.network import Network
from punchlab.lab.process.node import Node
from punchlab.punch.nat.behavior import Refresh, Timeouts
from punchlab.punch.nat.probe import NotTested

LATE = NotTested("packets through the NAT or this process were late")

_KERNEL_STATES = {
    "tcp_transitory_s": ("tcp_timeout_syn_sent", "tcp_timeout_syn_recv"),
    "tcp_established_s": ("tcp_timeout_established",),
    "tcp_closing_s": tuple(f"tcp_timeout_{state}" for state in ("fin_wait", "close_wait", "last_ack", "time_wait")),
    "udp_solitary_s": ("udp_timeout",),
    "udp_stream_s": ("udp_timeout_stream",),
}
_STREAM_S = 2.3
"""Slightly longer than the two-way traffic after which connection tracking classifies a UDP flow as a stream."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observed:
    """Observations. `NotTested` where this process was late, or where no packet passed that could be observed.

    `idled` has for each field of `Timeouts` True if the state expired on time, else `expired early` or `expired late`.
    `refresh` lists the directions that refresh a UDP mapping, or is `none` or `inbound`. `icmp_translated` and
    `icmp_survived` have for each transport whether an ICMP error passed and whether the mapping survived it.
    `overloads` has for each transport whether two hosts shared an external port. `reset_closes` is None if it depends
    on the sender of the RST. `reassembles`: whether a datagram passed whose last fragment arrived first.
    """

    idled: dict[str, bool | str | NotTested]
    refresh: str | NotTested
    reset_closes: bool | NotTested | None
    simultaneous_open: bool | NotTested
    icmp_translated: dict[str, bool | NotTested]
    icmp_survived: dict[str, bool | NotTested]
    overloads: dict[str, bool | NotTested]
    reassembles: bool | NotTested


def read_back(router: Node) -> dict[str, str]:
    """Return the timeouts in the router's kernel, in seconds, by field of `Timeouts`. Differing values are joined by
    slashes.
    """
    names = [name for states in _KERNEL_STATES.values() for name in states]
    values = router.run(["cat", *(f"/proc/sys/net/netfilter/nf_conntrack_{name}" for name in names)]).stdout.split()
    by_name = dict(zip(names, values, strict=True))
    return {field: "/".join(dict.fromkeys(by_name[name] for name in names)) for field, names in _KERNEL_STATES.items()}


def examine(lab: Network, host: str, timeouts: Timeouts) -> Observed:
    """Examine the NAT of `host` from both ends. `timeouts` are its (shortened) timeouts. Raises `LabError`."""
    try:
        return asyncio.run(_Examination(lab, host, timeouts).run())
    except ExceptionGroup as errors:
        # Raise only the first of several parallel errors.
        first: Exception = errors
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class _Examination:
    def __init__(self, lab: Network, host: str, timeouts: Timeouts) -> None:
        self._inside, self._server, self._timeouts = lab[host], lab.edges[0], timeouts
        self._ports: Iterator[int] = iter(random.sample(range(20000, 30000), 100))
        self._server_ports = itertools.count(40000)
        self._stack = contextlib.AsyncExitStack()
        self._alternate = self._server.graph.addresses[-1].partition("/")[0]
        interface = self._inside.graph.interfaces[0]
        own = ipaddress.IPv4Interface(interface.address or "")
        # The NAT sees this address as a second host.
        self._neighbor = str(own.ip + 1)
        self._inside.run(["ip", "address", "add", f"{self._neighbor}/{own.network.prefixlen}", "dev", interface.name])
        block_resets([self._inside, self._server])

    async def run(self) -> Observed:
        async with self._stack:
            self._watch = await self._stack.enter_async_context(Watch(*self._udp_pair()))
            self._a = await self._raw(self._inside, self._inside.address)
            self._b = await self._raw(self._inside, self._neighbor)
            self._s = await self._raw(self._server, self._server.address)
            self._s2 = await self._raw(self._server, self._alternate)
            async with asyncio.TaskGroup() as group:
                idled = group.create_task(self._idled())
                refresh = group.create_task(self._refresh())
                resets = [
                    group.create_task(self._on_time(self._reset(sender))) for sender in ("inside", "outside", "answer")
                ]
                simultaneous_open = group.create_task(self._on_time(self._simultaneous_open()))
                icmp = {
                    "tcp": group.create_task(self._on_time(self._tcp_icmp())),
                    "udp": group.create_task(self._on_time(self._udp_icmp())),
                }
                reassembles = group.create_task(self._on_time(self._reassembles()))
                overloads = {
                    "tcp": group.create_task(self._on_time(self._tcp_overloads())),
                    "udp": group.create_task(self._on_time(self._udp_overloads())),
                }
        errors = {transport: each.result() for transport, each in icmp.items()}
        return Observed(
            idled=idled.result(),
            refresh=refresh.result(),
            reset_closes=_agreed([each.result() for each in resets]),
            simultaneous_open=simultaneous_open.result(),
            icmp_translated={name: each if isinstance(each, NotTested) else each[0] for name, each in errors.items()},
            icmp_survived={name: each if isinstance(each, NotTested) else each[1] for name, each in errors.items()},
            overloads={transport: each.result() for transport, each in overloads.items()},
            reassembles=reassembles.result(),
        )

    async def _on_time(self, observation: Coroutine[Any, Any, T]) -> T | NotTested:
        """Return the observation, or `LATE` if packets or this process were late meanwhile.

        The shortest timeouts are two seconds. If an observation is delayed, a state can expire between two of its
        steps, and the result does not describe the NAT.
        """
        started = time.monotonic()
        seen = await _begun(observation)
        return LATE if self._watch.worst_since(started) >= MARGIN_S else seen

    # Timeouts. A TCP timeout starts at the first packet of the state, because connection tracking ignores a
    # retransmitted SYN. A UDP timeout starts at the second datagram, because the first may have been retransmitted.

    async def _idled(self) -> dict[str, bool | str | NotTested]:
        named = {each.name: int(getattr(self._timeouts, each.name)) for each in fields(self._timeouts)}
        makers: dict[str, Callable[[], Awaitable[State]]] = {
            "tcp_transitory_s": self._transitory,
            "tcp_established_s": self._established,
            "tcp_closing_s": self._closing,
            "udp_solitary_s": self._solitary,
            "udp_stream_s": self._stream,
        }
        async with asyncio.TaskGroup() as group:
            observations = {
                name: [
                    group.create_task(_begun(self._lives(makers[name], value + margin_s)))
                    for margin_s in (-MARGIN_S, MARGIN_S)
                ]
                for name, value in named.items()
            }
        return {name: _kept(before.result(), after.result()) for name, (before, after) in observations.items()}

    async def _lives(self, make: Callable[[], Awaitable[State]], idle_s: float) -> bool | NotTested:
        """Return whether a state still admits a packet after an idle time."""
        state = await make()
        return await state.lives(idle_s, self._pilot)

    async def _pilot(self) -> Pilot:
        inside, server = self._udp_pair()
        external = _must(await datagram(inside, server, server.getsockname()))

        async def follow() -> float | None:
            came = await arrived(datagram(server, inside, external, must=False))
            return time.monotonic() if came else None

        return follow

    async def _transitory(self) -> State:
        talk = self._conversation()
        since = time.monotonic()
        _must(await talk.out(Flag.SYN))
        return State.made(since, lambda: talk.back(Flag.SYN | Flag.ACK))

    async def _established(self) -> State:
        talk = self._conversation()
        _must(await talk.out(Flag.SYN))
        _must(await talk.back(Flag.SYN | Flag.ACK, must=True))
        since = time.monotonic()
        _must(await talk.out(Flag.ACK))
        return State.made(since, lambda: talk.back(Flag.ACK, b"x"))

    async def _closing(self) -> State:
        talk = self._conversation()
        _must(await talk.establish() or None)
        since = time.monotonic()
        _must(await talk.out(Flag.FIN | Flag.ACK))
        return State.made(since, lambda: talk.back(Flag.ACK))

    async def _solitary(self) -> State:
        inside, server = self._udp_pair()
        await datagram(inside, server, server.getsockname())
        since = time.monotonic()
        external = _must(await datagram(inside, server, server.getsockname()))
        return State.made(since, lambda: datagram(server, inside, external, must=False))

    async def _stream(self) -> State:
        inside, server = self._udp_pair()
        started = since = time.monotonic()
        while since - started < _STREAM_S:
            external = _must(await datagram(inside, server, server.getsockname()))
            await datagram(server, inside, external)
            await asyncio.sleep(_STREAM_S / 4)
            since = time.monotonic()
        external = _must(await datagram(inside, server, server.getsockname()))
        return State.made(since, lambda: datagram(server, inside, external, must=False))

    async def _refresh(self) -> str | NotTested:
        """Return which direction refreshes a UDP mapping: send one packet halfway and check after the original
        timeout.
        """
        time_s = self._timeouts.udp_solitary_s
        outbound, inbound = await asyncio.gather(
            _begun(self._refreshed("outbound", time_s)), _begun(self._refreshed("inbound", time_s))
        )
        if isinstance(outbound, NotTested):
            return outbound
        if isinstance(inbound, NotTested):
            return inbound
        if outbound:
            return str(Refresh.BOTH if inbound else Refresh.OUTBOUND)
        return "inbound" if inbound else "none"

    async def _refreshed(self, direction: str, time_s: int) -> bool | NotTested:
        inside, server = self._udp_pair()
        await datagram(inside, server, server.getsockname())
        since = time.monotonic()
        external = _must(await datagram(inside, server, server.getsockname()))
        state = State.made(since, lambda: datagram(server, inside, external, must=False))
        await asyncio.sleep(since + time_s - MARGIN_S - time.monotonic())
        if direction == "outbound":
            await datagram(inside, server, server.getsockname())
        else:
            await datagram(server, inside, external)
        refreshed_in_time = time.monotonic() < since + time_s
        kept = await state.lives(time_s + MARGIN_S, self._pilot)
        return kept if refreshed_in_time else TOO_BUSY

    # Segments.

    async def _reset(self, sender: str) -> bool:
        """Return whether a RST blocks the next SYN of the same remote endpoint. `answer`: a RST in answer to a SYN."""
        talk = self._conversation()
        if sender == "answer":
            _must(await talk.out(Flag.SYN))
        else:
            _must(await talk.establish() or None)
        flags = Flag.RST | Flag.ACK
        _must(await (talk.out(flags) if sender == "inside" else talk.back(flags, must=True)))
        talk.renumber()
        return await talk.back(Flag.SYN) is None

    async def _simultaneous_open(self) -> bool:
        """RFC 5382 REQ-2: exchange SYN and SYN, SYN-ACK and SYN-ACK, then data."""
        talk = self._conversation()
        steps = (
            (talk.out, Flag.SYN, b""),
            (talk.back, Flag.SYN, b""),
            (talk.out, Flag.SYN | Flag.ACK, b""),
            (talk.back, Flag.SYN | Flag.ACK, b""),
            (talk.out, Flag.ACK, b"x"),
            (talk.back, Flag.ACK, b"x"),
        )
        for send, flags, data in steps:
            if await send(flags, data) is None:
                return False
        return True

    async def _tcp_icmp(self) -> tuple[bool, bool]:
        """Send an ICMP Host Unreachable for a SYN. Return whether it passes, and whether the SYN-ACK after it
        passes.
        """
        talk = self._conversation()
        syn = _must(await talk.out(Flag.SYN))
        with self._inside.entered():
            receiver = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        receiver.setblocking(False)
        message = struct.pack("!BBHI", 3, 1, 0, 0) + syn.packet[:28]
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        with self._server.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sending:
            sending.sendto(message, (syn.source[0], 0))
        translated = await within(SILENCE_S, _icmp_about(receiver, self._server.address)) or False
        return translated, await talk.back(Flag.SYN | Flag.ACK) is not None

    async def _udp_icmp(self) -> tuple[bool, bool]:
        """Send a datagram to a closed port. Return whether the ICMP error passes, and whether an answer after it
        passes.
        """
        inside, server = self._udp_pair()
        target = server.getsockname()
        external = _must(await datagram(inside, server, target))
        server.close()
        inside.connect(target)
        inside.send(b"x")
        translated = False
        try:
            await within(SILENCE_S, asyncio.get_running_loop().sock_recv(inside, 1))
        except ConnectionRefusedError:
            translated = True
        again = self._udp(self._server, *target)
        return translated, await arrived(datagram(again, inside, external, must=False))

    async def _reassembles(self) -> bool:
        """Send a datagram in two fragments, the last one first (RFC 4787 REQ-14)."""
        inside, server = self._udp_pair()
        external = _must(await datagram(inside, server, server.getsockname()))
        whole = struct.pack("!HHHH", server.getsockname()[1], external[1], 24, 0) + bytes(16)
        more, identity = 1 << 13, random.randrange(1, 1 << 16)
        fragments = ((whole[16:], 16 // 8), (whole[:16], more))
        with self._server.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sending:
            for data, place in fragments:
                # The kernel fills in the length and the checksum.
                header = struct.pack("!BBHHHBBH", 0x45, 0, 0, identity, place, 64, socket.IPPROTO_UDP, 0)
                addresses = socket.inet_aton(self._server.address) + socket.inet_aton(external[0])
                sending.sendto(header + addresses + data, (external[0], 0))
        received = await within(SILENCE_S, asyncio.get_running_loop().sock_recv(inside, 100))
        return received is not None and len(received) == 16

    async def _tcp_overloads(self) -> bool:
        port = next(self._ports)
        talks = (
            Conversation(self._a, port, self._s, next(self._server_ports)),
            Conversation(self._b, port, self._s2, next(self._server_ports)),
        )
        return len({_must(await talk.out(Flag.SYN)).source for talk in talks}) == 1

    async def _udp_overloads(self) -> bool:
        port = next(self._ports)
        ends = [
            (self._udp(self._inside, own, port), self._udp(self._server, server, next(self._server_ports)))
            for own, server in ((self._inside.address, self._server.address), (self._neighbor, self._alternate))
        ]
        return len({await datagram(inside, server, server.getsockname()) for inside, server in ends}) == 1

    # Sockets.

    async def _raw(self, node: Node, address: str) -> RawTcp:
        return await self._stack.enter_async_context(RawTcp(node, address))

    def _conversation(self) -> Conversation:
        return Conversation(self._a, next(self._ports), self._s, next(self._server_ports))

    def _udp_pair(self) -> tuple[socket.socket, socket.socket]:
        return (
            self._udp(self._inside, self._inside.address, next(self._ports)),
            self._udp(self._server, self._server.address, next(self._server_ports)),
        )

    def _udp(self, node: Node, address: str, port: int) -> socket.socket:
        made = self._stack.enter_context(node.socket(socket.SOCK_DGRAM))
        made.setblocking(False)
        made.bind((address, port))
        return made


async def _icmp_about(receiver: socket.socket, destination: str) -> bool:
    """Wait for an ICMP Host Unreachable for a packet to that address."""
    while True:
        packet = await asyncio.get_running_loop().sock_recv(receiver, 1500)
        kind, code, about = packet[20], packet[21], packet[28 + 16 : 28 + 20]
        if (kind, code) == (3, 1) and about == socket.inet_aton(destination):
            return True


async def _begun(observation: Coroutine[Any, Any, T]) -> T | NotTested:
    """Return the observation, or the reason why it could not start."""
    try:
        return await observation
    except NotBegunError as error:
        return NotTested(str(error))


def _must(what: T | None) -> T:
    """Return the argument. Raises `NotBegunError` if it is None, because then there is nothing to observe."""
    if what is None:
        raise NotBegunError("no packet of the connection passed the NAT")
    return what


def _kept(before: bool | NotTested, after: bool | NotTested) -> bool | str | NotTested:
    """Combine observations shortly before and shortly after the end of a timeout."""
    if before is False:
        return "expired early"
    if after is True:
        return "expired late"
    return next((each for each in (before, after) if isinstance(each, NotTested)), True)


def _agreed(closes: Sequence[bool | NotTested]) -> bool | NotTested | None:
    """Return the common value, or None if the values differ."""
    seen = {each for each in closes if not isinstance(each, NotTested)}
    if len(seen) > 1:
        return None
    return next((each for each in closes if isinstance(each, NotTested)), True in seen)
