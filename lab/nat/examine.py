"""What no socket can see of a NAT: its clocks, by idling on them, and what single segments do to its state.

This takes both ends of a lab, an inside host and a server; on the real Internet there is `punch probe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields

from lab.errors import LabError
from lab.lab import Lab
from lab.nat.segments import PATIENCE_S, SILENCE_S, Conversation, Flag, RawTcp, checksum, keep_resets_in
from lab.node import Node
from punch.nat.behavior import Refresh, Timeouts

MARGIN_S = 0.5
"""A state must live for its time less this, and be dead after its time and this."""
TOO_BUSY = "not tested: the machine is too busy to idle to the second"

_KERNEL_STATES = {
    "tcp_transitory_s": ("tcp_timeout_syn_sent", "tcp_timeout_syn_recv"),
    "tcp_established_s": ("tcp_timeout_established",),
    "tcp_closing_s": tuple(f"tcp_timeout_{state}" for state in ("fin_wait", "close_wait", "last_ack", "time_wait")),
    "udp_solitary_s": ("udp_timeout",),
    "udp_stream_s": ("udp_timeout_stream",),
}
_STREAM_S = 2.3
"""How long traffic goes both ways until connection tracking calls it a stream, and a little more."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen. `idled` says per field of `Timeouts` whether the state lived and died when it should; None: the
    machine was too busy to tell.

    `refresh` is the directions that keep a UDP mapping, or `none`, `inbound` or `TOO_BUSY`. `icmp_translated` and
    `icmp_survived` are by transport: whether an ICMP error came through, and whether the mapping outlived it; so is
    `overloads`: whether two hosts shared an external port. `reset_closes` is None if it hangs on who sends the RST.
    `reassembles`: a datagram came through whose last fragment came first.
    """

    idled: dict[str, bool | None]
    refresh: str
    reset_closes: bool | None
    simultaneous_open: bool
    icmp_translated: dict[str, bool]
    icmp_survived: dict[str, bool]
    overloads: dict[str, bool]
    reassembles: bool

    @property
    def complete(self) -> bool:
        """Whether the machine was never too busy to tell."""
        return None not in self.idled.values() and self.refresh != TOO_BUSY


def read_back(router: Node) -> dict[str, str]:
    """The seconds that the router's kernel has for each field of `Timeouts`; several with slashes where they differ."""
    names = [name for states in _KERNEL_STATES.values() for name in states]
    values = router.run(["cat", *(f"/proc/sys/net/netfilter/nf_conntrack_{name}" for name in names)]).stdout.split()
    by_name = dict(zip(names, values, strict=True))
    return {field: "/".join(dict.fromkeys(by_name[name] for name in names)) for field, names in _KERNEL_STATES.items()}


def examine(lab: Lab, host: str, timeouts: Timeouts) -> Observed:
    """Look at the NAT of `host`, whose clocks have these (short) timeouts, from both sides. Raises `LabError`."""
    try:
        return asyncio.run(_Examination(lab, host, timeouts).run())
    except ExceptionGroup as errors:
        # Of those that failed side by side, one tells enough.
        first: Exception = errors
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class _Examination:
    def __init__(self, lab: Lab, host: str, timeouts: Timeouts) -> None:
        self._inside, self._server, self._timeouts = lab[host], lab.edges[0], timeouts
        self._ports: Iterator[int] = iter(random.sample(range(20000, 30000), 100))
        self._server_ports = itertools.count(40000)
        self._stack = contextlib.AsyncExitStack()
        self._alternate = self._server.graph.addresses[-1].partition("/")[0]
        interface = self._inside.graph.interfaces[0]
        own = ipaddress.IPv4Interface(interface.address or "")
        # A second host, as far as the NAT can see.
        self._neighbor = str(own.ip + 1)
        self._inside.run(["ip", "address", "add", f"{self._neighbor}/{own.network.prefixlen}", "dev", interface.name])
        keep_resets_in([self._inside, self._server])

    async def run(self) -> Observed:
        async with self._stack:
            self._a = await self._raw(self._inside, self._inside.address)
            self._b = await self._raw(self._inside, self._neighbor)
            self._s = await self._raw(self._server, self._server.address)
            self._s2 = await self._raw(self._server, self._alternate)
            async with asyncio.TaskGroup() as group:
                idled = group.create_task(self._idled())
                refresh = group.create_task(self._refresh())
                resets = [group.create_task(self._reset(sender)) for sender in ("inside", "outside", "answer")]
                simultaneous_open = group.create_task(self._simultaneous_open())
                icmp = {"tcp": group.create_task(self._tcp_icmp()), "udp": group.create_task(self._udp_icmp())}
                reassembles = group.create_task(self._reassembles())
                overloads = {
                    "tcp": group.create_task(self._tcp_overloads()),
                    "udp": group.create_task(self._udp_overloads()),
                }
        closes = {each.result() for each in resets}
        return Observed(
            idled=idled.result(),
            refresh=refresh.result(),
            reset_closes=closes.pop() if len(closes) == 1 else None,
            simultaneous_open=simultaneous_open.result(),
            icmp_translated={transport: each.result()[0] for transport, each in icmp.items()},
            icmp_survived={transport: each.result()[1] for transport, each in icmp.items()},
            overloads={transport: each.result() for transport, each in overloads.items()},
            reassembles=reassembles.result(),
        )

    # Clocks. Time counts from the second packet: the first may have been sent more than once.

    async def _idled(self) -> dict[str, bool | None]:
        named = {each.name: int(getattr(self._timeouts, each.name)) for each in fields(self._timeouts)}
        makers: dict[str, Callable[[], Awaitable[_State]]] = {
            "tcp_transitory_s": self._transitory,
            "tcp_established_s": self._established,
            "tcp_closing_s": self._closing,
            "udp_solitary_s": self._solitary,
            "udp_stream_s": self._stream,
        }
        async with asyncio.TaskGroup() as group:
            looks = {
                name: [
                    group.create_task(self._lives(makers[name], value + margin_s)) for margin_s in (-MARGIN_S, MARGIN_S)
                ]
                for name, value in named.items()
            }
        verdicts = {name: [look.result() for look in pair] for name, pair in looks.items()}
        return {name: None if None in seen else seen == [True, False] for name, seen in verdicts.items()}

    async def _lives(self, make: Callable[[], Awaitable[_State]], idle_s: float) -> bool | None:
        """Whether a state lets a packet in after so much idling; None if the machine was too late to tell."""
        state = await make()
        return await state.lives(idle_s)

    async def _transitory(self) -> _State:
        talk = self._conversation()
        await talk.out(Flag.SYN)
        since = time.monotonic()
        await talk.out(Flag.SYN)
        return _State.made(since, lambda: talk.back(Flag.SYN | Flag.ACK))

    async def _established(self) -> _State:
        talk = self._conversation()
        await talk.out(Flag.SYN)
        await talk.back(Flag.SYN | Flag.ACK, must=True)
        since = time.monotonic()
        await talk.out(Flag.ACK)
        return _State.made(since, lambda: talk.back(Flag.ACK, b"x"))

    async def _closing(self) -> _State:
        talk = self._conversation()
        await talk.establish()
        since = time.monotonic()
        await talk.out(Flag.FIN | Flag.ACK)
        return _State.made(since, lambda: talk.back(Flag.ACK))

    async def _solitary(self) -> _State:
        inside, server = self._udp_pair()
        await _datagram(inside, server, server.getsockname())
        since = time.monotonic()
        external = await _datagram(inside, server, server.getsockname())
        return _State.made(since, lambda: _datagram(server, inside, external, must=False))

    async def _stream(self) -> _State:
        inside, server = self._udp_pair()
        begun = since = time.monotonic()
        external = None
        while since - begun < _STREAM_S:
            external = await _datagram(inside, server, server.getsockname()) or external
            await _datagram(server, inside, external, must=True)
            await asyncio.sleep(_STREAM_S / 4)
            since = time.monotonic()
        external = await _datagram(inside, server, server.getsockname()) or external
        return _State.made(since, lambda: _datagram(server, inside, external, must=False))

    async def _refresh(self) -> str:
        """Whose packets keep a UDP mapping alive: one of either side halfway, and a look after its first end."""
        time_s = self._timeouts.udp_solitary_s
        outbound, inbound = await asyncio.gather(
            self._refreshed("outbound", time_s), self._refreshed("inbound", time_s)
        )
        if outbound is None or inbound is None:
            return TOO_BUSY
        if outbound:
            return str(Refresh.BOTH if inbound else Refresh.OUTBOUND)
        return "inbound" if inbound else "none"

    async def _refreshed(self, direction: str, time_s: int) -> bool | None:
        inside, server = self._udp_pair()
        await _datagram(inside, server, server.getsockname())
        since = time.monotonic()
        external = await _datagram(inside, server, server.getsockname())
        state = _State.made(since, lambda: _datagram(server, inside, external, must=False))
        await asyncio.sleep(since + time_s - MARGIN_S - time.monotonic())
        if direction == "outbound":
            await _datagram(inside, server, server.getsockname())
        else:
            await _datagram(server, inside, external, must=True)
        refreshed_in_time = time.monotonic() < since + time_s
        kept = await state.lives(time_s + MARGIN_S)
        return kept if refreshed_in_time else None

    # Segments.

    async def _reset(self, sender: str) -> bool:
        """Whether a RST keeps out the next SYN of the same remote endpoint; `answer`: a RST in answer to a SYN."""
        talk = self._conversation()
        if sender == "answer":
            begun = await talk.out(Flag.SYN) is not None
        else:
            begun = await talk.establish()
        flags = Flag.RST | Flag.ACK
        reset = await (talk.out(flags) if sender == "inside" else talk.back(flags, must=True))
        if not begun or reset is None:
            raise LabError(f"{self._inside.name}: no connection, or no RST of it, came through the NAT")
        talk.renumber()
        return await talk.back(Flag.SYN) is None

    async def _simultaneous_open(self) -> bool:
        """RFC 5382 REQ-2: SYN and SYN, SYN-ACK and SYN-ACK, then data."""
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
        """An ICMP Host Unreachable about a SYN: whether it comes through, and the SYN-ACK after it."""
        talk = self._conversation()
        syn = await talk.out(Flag.SYN)
        if syn is None:
            raise LabError(f"{self._inside.name}: no SYN came through the NAT")
        with self._inside.entered():
            hearing = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        hearing.setblocking(False)
        message = struct.pack("!BBHI", 3, 1, 0, 0) + syn.packet[:28]
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        with self._server.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sending:
            sending.sendto(message, (syn.source[0], 0))
        translated = await _icmp_about(hearing, self._server.address)
        return translated, await talk.back(Flag.SYN | Flag.ACK) is not None

    async def _udp_icmp(self) -> tuple[bool, bool]:
        """A datagram to a closed port: whether the ICMP error comes back, and an answer after it."""
        inside, server = self._udp_pair()
        target = server.getsockname()
        external = await _datagram(inside, server, target)
        server.close()
        inside.connect(target)
        inside.send(b"x")
        translated = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                try:
                    await asyncio.get_running_loop().sock_recv(inside, 1)
                except ConnectionRefusedError:
                    translated = True
        again = self._udp(self._server, *target)
        return translated, await _heard(_datagram(again, inside, external, must=False))

    async def _reassembles(self) -> bool:
        """A datagram in two fragments, the last one first (RFC 4787 REQ-14)."""
        inside, server = self._udp_pair()
        external = await _datagram(inside, server, server.getsockname())
        if external is None:
            return False
        datagram = struct.pack("!HHHH", server.getsockname()[1], external[1], 24, 0) + bytes(16)
        more, identity = 1 << 13, random.randrange(1, 1 << 16)
        fragments = ((datagram[16:], 16 // 8), (datagram[:16], more))
        with self._server.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sending:
            for data, place in fragments:
                # The kernel fills in the length and the checksum.
                header = struct.pack("!BBHHHBBH", 0x45, 0, 0, identity, place, 64, socket.IPPROTO_UDP, 0)
                addresses = socket.inet_aton(self._server.address) + socket.inet_aton(external[0])
                sending.sendto(header + addresses + data, (external[0], 0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                return len(await asyncio.get_running_loop().sock_recv(inside, 100)) == 16
        return False

    async def _tcp_overloads(self) -> bool:
        port = next(self._ports)
        talks = (
            Conversation(self._a, port, self._s, next(self._server_ports)),
            Conversation(self._b, port, self._s2, next(self._server_ports)),
        )
        heard = [await talk.out(Flag.SYN) for talk in talks]
        return _same([None if each is None else each.source for each in heard])

    async def _udp_overloads(self) -> bool:
        port = next(self._ports)
        ends = [
            (self._udp(self._inside, own, port), self._udp(self._server, server, next(self._server_ports)))
            for own, server in ((self._inside.address, self._server.address), (self._neighbor, self._alternate))
        ]
        return _same([await _datagram(inside, server, server.getsockname()) for inside, server in ends])

    # Ends.

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


@dataclass(frozen=True, slots=True)
class _State:
    """Something that the NAT remembers, begun between two instants, and one packet that comes in as long as it does."""

    since: float
    until: float
    knock: Callable[[], Awaitable[object | None]]

    @classmethod
    def made(cls, since: float, knock: Callable[[], Awaitable[object | None]]) -> _State:
        """A state whose last packet was sent after `since`, and has been heard by now."""
        return cls(since, time.monotonic(), knock)

    async def lives(self, idle_s: float) -> bool | None:
        """Whether the packet comes in so long after `since`.

        None where a machine that was late may have decided that: what lives may have begun later, what is dead may
        have been asked later.
        """
        due = self.since + idle_s
        await asyncio.sleep(due - time.monotonic())
        if await _heard(self.knock()):
            return True if self.until - self.since < MARGIN_S else None
        return False if time.monotonic() - due - SILENCE_S < MARGIN_S else None


async def _heard(what: Awaitable[object | None]) -> bool:
    return await what is not None


async def _datagram(
    sender: socket.socket, receiver: socket.socket, to: tuple[str, int] | None, *, must: bool = True
) -> tuple[str, int] | None:
    """Send one, again if it `must` come; where it comes from as the receiver sees it, None if it does not come."""
    if to is None:
        return None
    deadline, token = time.monotonic() + (PATIENCE_S if must else 0), os.urandom(8)
    while True:
        sender.sendto(token, to)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                while True:
                    data, source = await asyncio.get_running_loop().sock_recvfrom(receiver, len(token))
                    if data == token:
                        return str(source[0]), int(source[1])
        if time.monotonic() >= deadline:
            return None


async def _icmp_about(hearing: socket.socket, destination: str) -> bool:
    """Whether an ICMP Host Unreachable comes about a packet to that address."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            while True:
                packet = await asyncio.get_running_loop().sock_recv(hearing, 1500)
                kind, code, about = packet[20], packet[21], packet[28 + 16 : 28 + 20]
                if (kind, code) == (3, 1) and about == socket.inet_aton(destination):
                    return True
    return False


def _same(seen: list[tuple[str, int] | None]) -> bool:
    """Whether both have one external endpoint."""
    if None in seen:
        raise LabError("a host behind the NAT does not reach the server")
    return len(set(seen)) == 1
