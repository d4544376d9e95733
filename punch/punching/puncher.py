"""TCP hole punching: from one local address, listen and connect to all of the peer's candidates at once.

Each `connect` opens a pinhole in our NAT for the peer. The result depends on the NATs and on timing:

- The two SYNs cross and reach connecting sockets: a simultaneous open (RFC 9293 section 3.5), one connection.
- The peer's SYN arrives while no socket of ours is connecting to the peer: our listener accepts it.
- The peer's NAT silently drops our SYN: the kernel retransmits it, and a later one finds the pinhole of the peer's SYN.
- The SYN is rejected (RST or ICMP): we connect again from the same port after 50 to 150 ms. The pause is random because
  two clients in lockstep could reject each other forever.
- EADDRNOTAVAIL: the listener already has a connection with this endpoint. That connection is used, and connecting
  again does no harm.

A connecting or connected socket is not closed before the peers have agreed on one connection. Closing it would make the
kernel answer later packets with a RST, which could end the connection that the other side has just established.
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
MAX_STRANGERS = 32  # accepted connections that are not yet authenticated
_SPIN_S = 0.008
_QUIET = "guess"  # a kind with thousands of candidates, which are reported in total
_REFUSALS = {"ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH"}

Verdict = Literal["kept", "lost", "stranger"]


@dataclass(frozen=True, eq=False)
class Connection:
    """One TCP connection to a host that may be the peer."""

    sock: socket.socket
    local: Endpoint
    remote: Endpoint
    by: Literal["connect", "accept"]


Examine = Callable[[Connection], Awaitable[Verdict]]
"""Authenticates the other end. Returns "kept" for the peer, "stranger" for another host (the client does not connect to
it again), "lost" if the connection ended (the client connects again)."""


async def sleep_until(instant: float) -> None:
    """Return at `instant` of `time.monotonic()`, within some ten microseconds if a CPU is available."""
    await asyncio.sleep(max(0.0, instant - time.monotonic() - _SPIN_S))
    while time.monotonic() < instant:
        pass  # timers of the event loop are milliseconds late, and so is a CPU that leaves an idle state


@dataclass(eq=False)
class _Dial:
    """Attempts to one candidate from one local address; `attempt` counts connects, `pending` is True during one."""

    target: Candidate
    local: Endpoint
    ttl: int | None
    attempts: int | None
    attempt: int = 0
    pending: bool = False
    results: Counter[str] = field(default_factory=Counter)


class Puncher:
    """Makes connections from `local` and has each of them examined.

    The constructor opens the listener early, so that a peer that knows us first is not rejected. `set_targets` opens
    the sockets for the first connects and `connect_all` connects them; `dial` adds connects at any time after. `close`
    closes everything but the released connection. `max_attempts` limits the connects per candidate (None: until
    closed). The attribute `admit` returns how many of the wanted connects (None: no limit) may be made; the default
    returns all of them. `broken` gets the exception if a task of the puncher fails.
    """

    def __init__(self, local: Endpoint, max_attempts: int | None, examine: Examine, report: Reporter) -> None:
        self._local = local
        self._max_attempts = max_attempts
        self.admit: Callable[[Candidate, int | None], int | None] = lambda _target, wanted: wanted
        self._examine = examine
        self._report = report
        self._prepared: list[tuple[Candidate, socket.socket]] = []
        self._dials: list[_Dial] = []
        self._busy: set[tuple[Endpoint, Endpoint]] = set()  # (local, remote) that are connecting or connected
        self._first_syn_reported = False
        self._ipv6_listener: tuple[Endpoint, socket.socket] | None = None
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

    def listen_ipv6(self, local: Endpoint) -> None:
        """Open a listener at a local IPv6 address, from which IPv6 candidates are connected to.

        It accepts connections from `dial_ipv6` on. Raises `OSError`.
        """
        listener = self._open(local)
        listener.listen(MAX_STRANGERS)
        self._ipv6_listener = local, listener

    def dial_ipv6(self, targets: Sequence[Candidate]) -> None:
        """Connect to IPv6 candidates and accept connections at the local IPv6 address, until `close`."""
        if self._ipv6_listener is None:
            return
        local, listener = self._ipv6_listener
        for target in targets:
            with contextlib.suppress(OSError):
                self.dial(target, local=local)
        self._spawn(self._accept(listener, local))

    def set_targets(self, targets: Sequence[Candidate]) -> None:
        """Open the sockets for connects to `targets`, which replace the targets of earlier calls."""
        for _target, sock in self._prepared:
            self._close(sock)
        within_reach = [target for target in targets if target.address.family == self._local.family]
        self._prepared = [(target, self._open(self._local)) for target in within_reach]

    def connect_all(self) -> None:
        """Connect to every target and accept connections, until `close`."""
        admitted = [
            (target, sock, attempts)
            for target, sock in self._prepared
            if (self._local, target.address) not in self._busy
            and (attempts := self.admit(target, self._max_attempts)) != 0
        ]
        now = time.monotonic()
        started = [(target, sock, attempts, sock.connect_ex(target.address)) for target, sock, attempts in admitted]
        self._prepared = []
        self.accept()
        if started:
            self._report_first(now)
        for target, sock, attempts, number in started:
            self._spawn(self._dial(self._new_dial(target, self._local, None, attempts), sock, number))

    def accept(self, local: Endpoint | None = None) -> None:
        """Accept connections at `local`, which `dial` may use as well, or at the puncher's address, until `close`."""
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
        """Connect to one more candidate, from the puncher's address or another one, until `close`.

        Does nothing if such attempts are already running, are not admitted, or need an address of another family.

        `ttl` is the time to live of the first SYN of each attempt; ICMP Time Exceeded does not end the attempt (see
        `low_ttl_syn`). `attempts` limits the connects further than the puncher does, and `repeats` limits the
        retransmissions of the SYN. Raises `OSError` if no socket is available.
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
        """Stop, and close every socket except the released one. May be called again."""
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
        """Exclude the agreed connection from `close`; the caller owns it."""
        self._released = True
        self._sockets.discard(connection.sock)

    def failure(self) -> tuple[Outcome, str]:
        """Return the outcome of a punch without a connection, and the reason as text."""
        public = [dial for dial in self._dials if dial.target.kind != "host"]
        results = _sum(public)
        pending = any(dial.pending for dial in public)
        refused = bool(results) and not pending and results.keys() <= _REFUSALS
        listed = [dial for dial in self._dials if dial.target.kind != _QUIET]
        texts = [_results(str(dial.target.address), dial.target.kind, [dial]) for dial in listed]
        guesses = [dial for dial in self._dials if dial.target.kind == _QUIET]
        if guesses:
            texts.append(_results(f"{len(guesses)} ports of {guesses[0].target.address.ip}", _QUIET, guesses))
        dialled = {dial.target for dial in self._dials}
        missed = [target for target, _sock in self._prepared if target not in dialled]
        texts += [f"{target.address} ({target.kind}): no attempt" for target in missed]
        return ("refused" if refused else "punch_timeout"), "; ".join(
            texts
        ) or "the peer has no address that this client may connect to"

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
            except OSError:  # the connection has already ended, or no descriptor is available
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
        """Repeat the attempt until there is a connection to keep, or the limit is reached."""
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
        if not self._first_syn_reported:
            self._first_syn_reported = True
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


def _results(name: str, kind: str, dials: Sequence[_Dial]) -> str:
    counts = [f"{result} x {count}" for result, count in _sum(dials).most_common()]
    pending = sum(dial.pending for dial in dials)
    if pending:
        counts.append("1 connect without an answer" if pending == 1 else f"{pending} connects without an answer")
    return f"{name} ({kind}): {', '.join(counts) or 'no attempt'}"
