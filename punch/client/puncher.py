"""TCP hole punching: from one local address, listen and connect to all of the peer's candidates at once.

Each `connect` opens our NAT for the peer; what comes of it depends on the NATs and on timing:

- The two SYNs cross and meet two connecting sockets: a simultaneous open (RFC 9293 section 3.5), one connection.
- The peer's SYN comes while no socket of ours dials it: our listener takes it.
- Our SYN is dropped by the peer's NAT: the kernel sends it again, and later ones find the hole that the peer made.
- It is refused (RST, or ICMP): we dial again from the same port after 50 to 150 ms. The pause is random because two
  clients in lockstep could refuse each other for ever.
- EADDRNOTAVAIL: the listener already holds a connection with just this peer; it wins, and dialling again does no harm.

A socket that is connecting or connected is not closed before the peers have agreed on one connection: the RST that it
would answer with later can kill the connection that the other side has just made of it.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Literal

from punch.client.candidates import Candidate
from punch.client.sockets import bound_socket, connect_result, errno_name
from punch.endpoint import Endpoint
from punch.errors import Outcome
from punch.events import Reporter

RETRY_S = (0.05, 0.15)
MAX_STRANGERS = 32  # accepted connections that may wait for their authentication at a time
_SPIN_S = 0.008
_REFUSALS = {"ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH"}

Verdict = Literal["kept", "lost", "stranger"]


@dataclass(frozen=True, eq=False)
class Connection:
    """One TCP connection to somebody who may be the peer."""

    sock: socket.socket
    local: Endpoint
    remote: Endpoint
    by: Literal["connect", "accept"]


Examine = Callable[[Connection], Awaitable[Verdict]]
"""Finds out who is at the other end: the peer (the connection is kept as it is), a stranger (who is not dialled
again), or nobody any more (dial again)."""


async def sleep_until(instant: float) -> None:
    """Return at `instant` of `time.monotonic()`, within some ten microseconds if a CPU is free."""
    await asyncio.sleep(max(0.0, instant - time.monotonic() - _SPIN_S))
    while time.monotonic() < instant:
        pass  # an event loop's timers are milliseconds late, and so is an idle CPU that has to wake up


class Puncher:
    """Makes connections from `local` and has each examined.

    Making it opens the listener, early, so that a peer that is told about us first is not refused. `aim` opens the
    sockets of the first volley, `fire` only has to connect them. `close` closes everything but what was released.
    `max_attempts` bounds the connects per candidate (None: until closed). `broken` gets the exception if the
    machinery itself fails.
    """

    def __init__(self, local: Endpoint, max_attempts: int | None, examine: Examine, report: Reporter) -> None:
        self._local = local
        self._max_attempts = max_attempts
        self._examine = examine
        self._report = report
        self._volley: list[tuple[Candidate, socket.socket]] = []
        self._results: dict[Candidate, Counter[str]] = {}
        self._dialling: dict[Candidate, int] = {}  # the number of the connect under way
        self._strangers = 0
        self._released = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[socket.socket] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._listener = self._open()
            self._listener.listen(MAX_STRANGERS)
        except BaseException:
            self._close_sockets()
            raise

    def aim(self, targets: list[Candidate]) -> None:
        """Get ready to dial `targets`."""
        self._volley = [(target, self._open()) for target in targets]
        self._results = {target: Counter() for target in targets}

    def fire(self) -> None:
        """Dial every target and accept whoever dials us, now, and go on until `close`."""
        self._spawn(self._accept())
        now = time.monotonic()
        started = [(target, sock, sock.connect_ex(target.address)) for target, sock in self._volley]
        if started:
            self._report("first_syn", t=now, local=str(self._local))
        for target, sock, number in started:
            self._dialling[target] = 1
            self._spawn(self._dial(target, sock, number))

    async def close(self) -> None:
        """Stop, and close every socket but those released."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for target, number in self._dialling.items():
            self._report_attempt(target, number, "ECANCELED" if self._released else "ETIMEDOUT")
        self._close_sockets()
        self.broken.cancel()

    def release(self, connection: Connection) -> None:
        """Leave a connection to the caller: this is the one that was sought."""
        self._released = True
        self._sockets.discard(connection.sock)

    def failure(self) -> tuple[Outcome, str]:
        """What to call it when no connection came of all this, and the reason in words."""
        public = [target for target in self._results if target.kind == "public"]
        results = {name for target in public for name in self._results[target]}
        pending = any(target in self._dialling for target in public)
        refused = bool(results) and not pending and results <= _REFUSALS
        return ("refused" if refused else "punch_timeout"), "; ".join(self._told(target) for target in self._results)

    def _told(self, target: Candidate) -> str:
        counts = [f"{name} x {count}" for name, count in self._results[target].most_common()]
        if target in self._dialling:
            counts.append("one connect without an answer")
        return f"{target.address} ({target.kind}): {', '.join(counts) or 'not dialled'}"

    def _open(self) -> socket.socket:
        sock = bound_socket(self._local)
        self._sockets.add(sock)
        return sock

    def _close(self, sock: socket.socket) -> None:
        self._sockets.discard(sock)
        sock.close()

    def _close_sockets(self) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.broken.done():
            self.broken.set_exception(error)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._listener)
            except OSError:  # the connection was gone before we took it, or we have no descriptor for it now
                await asyncio.sleep(RETRY_S[0])
                continue
            if self._strangers >= MAX_STRANGERS:
                sock.close()
                continue
            self._sockets.add(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._examine_accepted(Connection(sock, self._local, Endpoint(*address), "accept")))

    async def _examine_accepted(self, connection: Connection) -> None:
        self._strangers += 1
        try:
            self._report_connected(connection)
            if await self._examine(connection) != "kept":
                self._close(connection.sock)
        finally:
            self._strangers -= 1

    async def _dial(self, target: Candidate, sock: socket.socket, number: int) -> None:
        attempt = 1
        while True:
            if number == errno.EINPROGRESS:
                number = await connect_result(sock)
            self._finished(target, attempt, "connected" if number == 0 else errno_name(number))
            if number == 0:
                connection = Connection(sock, self._local, target.address, "connect")
                self._report_connected(connection)
                verdict = await self._examine(connection)
                if verdict == "kept":
                    return
                if verdict == "stranger":
                    self._close(sock)
                    return
            self._close(sock)
            if attempt == self._max_attempts:
                return
            await asyncio.sleep(random.uniform(*RETRY_S))
            attempt += 1
            sock = self._open()
            self._dialling[target] = attempt
            number = sock.connect_ex(target.address)

    def _finished(self, target: Candidate, attempt: int, result: str) -> None:
        del self._dialling[target]
        self._results[target][result] += 1
        self._report_attempt(target, attempt, result)

    def _report_attempt(self, target: Candidate, number: int, result: str) -> None:
        self._report("attempt", remote=str(target.address), kind=target.kind, number=number, result=result)

    def _report_connected(self, connection: Connection) -> None:
        self._report("connected", local=str(connection.local), remote=str(connection.remote), by=connection.by)
