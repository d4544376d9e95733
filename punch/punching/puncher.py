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
import contextlib
import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import Outcome
from punchlab.punch.events import Reporter
from punchlab.punch.net.sockets import accepted, bound_socket, connect_result, errno_name, low_ttl_syn
from punchlab.punch.punching.candidates import Candidate

RETRY_S = (0.05, 0.15)
MAX_STRANGERS = 32  # accepted connections that may wait for their authentication at a time
_SPIN_S = 0.008
_QUIET = "guess"  # the kind of candidate whose dials come by the thousand: told in sum
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


@dataclass(eq=False)
class _Dial:
    """One candidate dialled from one local address; `attempt` counts its connects, `pending` while one is under way."""

    target: Candidate
    local: Endpoint
    ttl: int | None
    attempts: int | None
    attempt: int = 0
    pending: bool = False
    results: Counter[str] = field(default_factory=Counter)


class Puncher:
    """Makes connections from `local` and has each examined.

    Making it opens the listener, early, so that a peer that is told about us first is not refused. `aim` opens the
    sockets of the first volley, `fire` only has to connect them; `dial` adds to that, at any time after. `close` closes
    everything but what was released. `max_attempts` bounds the connects per candidate (None: until closed), and
    `admit`, an attribute, says how many of the wanted ones (None: no bound) a dial may make; the default is all of
    them. `broken` gets the exception if the machinery itself fails.
    """

    def __init__(self, local: Endpoint, max_attempts: int | None, examine: Examine, report: Reporter) -> None:
        self._local = local
        self._max_attempts = max_attempts
        self.admit: Callable[[Candidate, int | None], int | None] = lambda _target, wanted: wanted
        self._examine = examine
        self._report = report
        self._volley: list[tuple[Candidate, socket.socket]] = []
        self._dials: list[_Dial] = []
        self._busy: set[tuple[Endpoint, Endpoint]] = set()  # what is dialled, or connected, from where to where
        self._fired = False
        self._beside: tuple[Endpoint, socket.socket] | None = None
        self._strangers = 0
        self._released = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[socket.socket] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._listener: socket.socket | None = self._open(local)
            self._listener.listen(MAX_STRANGERS)
        except BaseException:
            self._close_sockets()
            raise

    def listen_beside(self, local: Endpoint) -> None:
        """Open a listener at an address of the other family as well, from which the candidates of that are dialled.

        It accepts from `dial_beside` on. Raises `OSError`.
        """
        listener = self._open(local)
        listener.listen(MAX_STRANGERS)
        self._beside = local, listener

    def dial_beside(self, targets: Sequence[Candidate]) -> None:
        """Dial `targets` from there, and accept whoever dials us there; until `close`."""
        if self._beside is None:
            return
        local, listener = self._beside
        for target in targets:
            with contextlib.suppress(OSError):
                self.dial(target, local=local)
        self._spawn(self._accept(listener, local))

    def aim(self, targets: Sequence[Candidate]) -> None:
        """Get ready to dial `targets`, and nothing else that was aimed at before."""
        for _target, sock in self._volley:
            self._close(sock)
        within_reach = [target for target in targets if target.address.family == self._local.family]
        self._volley = [(target, self._open(self._local)) for target in within_reach]

    def fire(self) -> None:
        """Dial every target and accept whoever dials us, now, and go on until `close`."""
        admitted = [
            (target, sock, attempts)
            for target, sock in self._volley
            if (self._local, target.address) not in self._busy
            and (attempts := self.admit(target, self._max_attempts)) != 0
        ]
        now = time.monotonic()
        started = [(target, sock, attempts, sock.connect_ex(target.address)) for target, sock, attempts in admitted]
        self._volley = []
        self.accept()
        if started:
            self._report_first(now)
        for target, sock, attempts, number in started:
            self._spawn(self._dial(self._new_dial(target, self._local, None, attempts), sock, number))

    def accept(self, local: Endpoint | None = None) -> None:
        """Accept whoever dials `local`, an address that `dial` may use as well, or the puncher's own; until `close`."""
        if local is None or local == self._local:
            if self._listener is not None:
                self._spawn(self._accept(self._listener, self._local))
                self._listener = None
            return
        listener = self._open(local)
        listener.listen(MAX_STRANGERS)
        self._spawn(self._accept(listener, local))

    def dial(
        self,
        target: Candidate,
        *,
        local: Endpoint | None = None,
        ttl: int | None = None,
        attempts: int | None = None,
        repeats: int | None = None,
    ) -> None:
        """Dial one more candidate, now, from the puncher's address or another one, until `close`.

        Does nothing if that is under way already, is not admitted, or cannot be for want of an address of that family.

        `ttl` is the time to live of the first SYN of each attempt; routers' complaints about it do not end the attempt
        (see `low_ttl_syn`). `attempts` bounds the connects below what the puncher allows, and `repeats` how often the
        kernel sends the first SYN again. Raises `OSError` where no socket is to be had.
        """
        source = local or self._local
        if (source, target.address) in self._busy or target.address.family != source.family:
            return
        admitted = self.admit(target, _fewest(attempts, self._max_attempts))
        if admitted == 0:
            return
        sock = self._open(source)
        if repeats is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, repeats)
        dial = self._new_dial(target, source, ttl, admitted)
        now = time.monotonic()
        number = self._connect(dial, sock)
        self._report_first(now)
        self._spawn(self._dial(dial, sock, number))

    async def close(self) -> None:
        """Stop, and close every socket but those released. May be called again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for dial in self._dials:
            if dial.pending:
                self._report_attempt(dial, "ECANCELED" if self._released else "ETIMEDOUT")
        guesses = [dial for dial in self._dials if dial.target.kind == _QUIET]
        if guesses:
            self._report("guesses", dialled=len(guesses), results=dict(_sum(guesses)))
        self._dials.clear()
        self._close_sockets()
        self.broken.cancel()

    def release(self, connection: Connection) -> None:
        """Leave a connection to the caller: this is the one that was sought."""
        self._released = True
        self._sockets.discard(connection.sock)

    def failure(self) -> tuple[Outcome, str]:
        """What to call it when no connection came of all this, and the reason in words."""
        public = [dial for dial in self._dials if dial.target.kind != "private"]
        results = _sum(public)
        pending = any(dial.pending for dial in public)
        refused = bool(results) and not pending and results.keys() <= _REFUSALS
        told = [_told(str(dial.target.address), dial.target.kind, [dial]) for dial in self._dials if _is_told(dial)]
        guesses = [dial for dial in self._dials if not _is_told(dial)]
        if guesses:
            told.append(_told(f"{len(guesses)} ports of {guesses[0].target.address.ip}", _QUIET, guesses))
        dialled = {dial.target for dial in self._dials}
        missed = [target for target, _sock in self._volley if target not in dialled]
        told += [f"{target.address} ({target.kind}): not dialled" for target in missed]
        return ("refused" if refused else "punch_timeout"), "; ".join(
            told
        ) or "the peer has no address that could be dialled from here"

    def _new_dial(self, target: Candidate, local: Endpoint, ttl: int | None, attempts: int | None) -> _Dial:
        dial = _Dial(target, local, ttl, attempts, attempt=1, pending=True)
        self._dials.append(dial)
        self._busy.add((local, target.address))
        return dial

    def _connect(self, dial: _Dial, sock: socket.socket) -> int:
        if dial.ttl is None:
            return sock.connect_ex(dial.target.address)
        with low_ttl_syn(sock, dial.ttl):
            return sock.connect_ex(dial.target.address)

    def _open(self, local: Endpoint) -> socket.socket:
        sock = bound_socket(local)
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

    async def _accept(self, listener: socket.socket, local: Endpoint) -> None:
        while True:
            try:
                sock, remote = await accepted(listener)
            except OSError:  # the connection was gone before we took it, or we have no descriptor for it now
                await asyncio.sleep(RETRY_S[0])
                continue
            if self._strangers >= MAX_STRANGERS:
                sock.close()
                continue
            self._sockets.add(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._examine_accepted(Connection(sock, local, remote, "accept")))

    async def _examine_accepted(self, connection: Connection) -> None:
        self._strangers += 1
        try:
            self._report_connected(connection)
            if await self._examine(connection) != "kept":
                self._close(connection.sock)
        finally:
            self._strangers -= 1

    async def _dial(self, dial: _Dial, sock: socket.socket, number: int) -> None:
        """Dial until there is a connection to keep, or no more is to be tried."""
        if not await self._succeeds(dial, sock, number):
            self._busy.discard((dial.local, dial.target.address))

    async def _succeeds(self, dial: _Dial, sock: socket.socket, number: int) -> bool:
        while True:
            if number == errno.EINPROGRESS:
                number = await connect_result(sock)
            self._finished(dial, "connected" if number == 0 else errno_name(number))
            if number == 0:
                connection = Connection(sock, dial.local, dial.target.address, "connect")
                self._report_connected(connection)
                verdict = await self._examine(connection)
                if verdict == "kept":
                    return True
                if verdict == "stranger":
                    self._close(sock)
                    return False
            self._close(sock)
            if dial.attempt == dial.attempts:
                return False
            await asyncio.sleep(random.uniform(*RETRY_S))
            dial.attempt += 1
            sock = self._open(dial.local)
            dial.pending = True
            number = self._connect(dial, sock)

    def _finished(self, dial: _Dial, result: str) -> None:
        dial.pending = False
        dial.results[result] += 1
        self._report_attempt(dial, result)

    def _report_first(self, now: float) -> None:
        if not self._fired:
            self._fired = True
            self._report("first_syn", t=now, local=str(self._local))

    def _report_attempt(self, dial: _Dial, result: str) -> None:
        if dial.target.kind == _QUIET and result != "connected":
            return
        more: dict[str, object] = {} if dial.local == self._local else {"local": str(dial.local)}
        if dial.ttl is not None:
            more["ttl"] = dial.ttl
        remote, kind = str(dial.target.address), dial.target.kind
        self._report("attempt", remote=remote, kind=kind, number=dial.attempt, result=result, **more)

    def _report_connected(self, connection: Connection) -> None:
        self._report("connected", local=str(connection.local), remote=str(connection.remote), by=connection.by)


def _fewest(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)


def _sum(dials: Iterable[_Dial]) -> Counter[str]:
    return sum((dial.results for dial in dials), Counter[str]())


def _is_told(dial: _Dial) -> bool:
    return dial.target.kind != _QUIET


def _told(name: str, kind: str, dials: Sequence[_Dial]) -> str:
    counts = [f"{result} x {count}" for result, count in _sum(dials).most_common()]
    pending = sum(dial.pending for dial in dials)
    if pending:
        counts.append("one connect without an answer" if pending == 1 else f"{pending} connects without an answer")
    return f"{name} ({kind}): {', '.join(counts) or 'not dialled'}"
