"""The control dial: the lab's own sockets punch through the same NATs before the client under test.

It tells a broken lab from a broken client. Two fresh local ports learn their external endpoints from a listener in an
edge's node, both hosts listen, and both dial once. Whether a token then crosses is compared with the oracle, given the
skew of the two connect() calls as it was measured.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from punchlab.lab.network import Network
from punchlab.lab.oracle.outcome import Dial, Prediction
from punchlab.lab.trial.prediction import predict_outcome

_PORTS = range(61000, 65536)
"""Above those that the punch client draws from, so that the two never share a mapping."""

_PATIENCE_S = 5.0
"""How long to wait for what must come: a registration, or a connection that is predicted."""

_SILENCE_S = 0.25
"""How long, beyond the flight times, nothing must come where failure is predicted."""

_ANSWERS = {0, errno.EINPROGRESS, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.EHOSTUNREACH}
"""What connect() may say at once: under way, the listener holds a connection with that peer already, or refused."""

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Control:
    """The result of the lab's own dial.

    `direct`: whether it got through; None if it could not be tried, for the `reason` in words: a link is down, or a
    firewall drops it. `skew_s` of its two connect() calls, and the `prediction` for that skew.
    """

    direct: bool | None
    skew_s: float | None = None
    prediction: Prediction | None = None
    reason: str | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether it went as predicted; None where a single dial does not decide, and where none was possible."""
        return None if self.direct is None or self.prediction is None else self.prediction.agrees(self.direct)


class _UnreachableError(Exception):
    """The dial could not be tried."""


def dial(lab: Network, one: str, other: str) -> Control:
    """Dial once from both hosts."""
    try:
        return _dial(lab, one, other)
    except _UnreachableError as error:
        return Control(None, reason=str(error))


def _dial(lab: Network, one: str, other: str) -> Control:
    path = lab.path(one, other)
    with contextlib.ExitStack() as stack:
        registered = [_register(lab, host, stack) for host in (one, other)]
        listeners = [
            _listen(lab, host, local, stack) for host, (local, _public) in zip((one, other), registered, strict=True)
        ]
        dialled: list[socket.socket] = []
        moments: list[float] = []
        for host, (local, _own), (_local, public) in zip((one, other), registered, reversed(registered), strict=True):
            connection = _bound(lab, host, local, stack)
            moments.append(time.monotonic())
            answer = connection.connect_ex(public)
            if answer not in _ANSWERS:
                raise _UnreachableError(f"{host} cannot dial {public[0]}:{public[1]}: {os.strerror(answer)}")
            dialled.append(connection)
        skew_s = moments[1] - moments[0]
        prediction = predict_outcome(
            lab,
            one,
            other,
            Dial(path.delay_s, skew_s, 1, _PATIENCE_S, path.loss, path.jitter_s),
        )
        silence = skew_s + 4 * (path.delay_s + path.jitter_s) + _SILENCE_S
        wait_s = silence if prediction.floor_s is None else _PATIENCE_S
        direct = _token_crosses(dialled, listeners, wait_s, stack)
    return Control(direct, skew_s, prediction)


def _register(lab: Network, host: str, stack: contextlib.ExitStack) -> tuple[Endpoint, Endpoint]:
    """A fresh local endpoint of the host, and the external one that an edge's node sees."""
    edge = lab.edges[0]
    registrar = stack.enter_context(edge.socket())
    registrar.bind((edge.address, 0))
    registrar.listen()
    registrar.settimeout(_PATIENCE_S)
    connection = _bound(lab, host, ("0.0.0.0", random.choice(_PORTS)), stack)  # noqa: S104 - inside the host's namespace
    connection.settimeout(_PATIENCE_S)
    try:
        connection.connect(registrar.getsockname())
        accepted, public = registrar.accept()
    except OSError as error:
        raise _UnreachableError(f"{host} cannot reach {edge.name}: {error}") from error
    stack.enter_context(accepted)
    return connection.getsockname(), public


def _listen(lab: Network, host: str, local: Endpoint, stack: contextlib.ExitStack) -> socket.socket:
    listener = _bound(lab, host, local, stack)
    listener.listen()
    listener.setblocking(False)
    return listener


def _bound(lab: Network, host: str, local: Endpoint, stack: contextlib.ExitStack) -> socket.socket:
    made = stack.enter_context(lab[host].socket())
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Closed by a RST: no farewell of the control dial lingers on the links when the client's punch begins.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.bind(local)
    made.setblocking(False)
    return made


def _token_crosses(
    dialled: list[socket.socket], listeners: list[socket.socket], wait_s: float, stack: contextlib.ExitStack
) -> bool:
    """Whether a token that either end sends on its connections comes out at the other end before the time is over."""
    token = secrets.token_bytes(16)
    deadline = time.monotonic() + wait_s
    poll = select.poll()
    sides = {made.fileno(): (number, made) for number, made in enumerate(dialled)}
    doors = {made.fileno(): (number, made) for number, made in enumerate(listeners)}
    for descriptor in sides:
        poll.register(descriptor, select.POLLOUT)
    for descriptor in doors:
        poll.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _events in poll.poll(left * 1000):
            if descriptor in doors:
                number, listener = doors[descriptor]
                for accepted in _accept(listener):
                    stack.enter_context(accepted).setblocking(False)
                    sides[accepted.fileno()] = (number, accepted)
                    _greet(accepted, number, token)
                    poll.register(accepted.fileno(), select.POLLIN)
                continue
            number, connection = sides[descriptor]
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not _connected(connection):
                poll.unregister(descriptor)
                connection.close()  # refused: an attempt that has ended, as a client's does
                continue
            heard = _received(connection)
            if heard == bytes([1 - number]) + token:  # the other end's, not one's own: sockets can meet themselves
                return True
            if heard == b"":
                poll.unregister(descriptor)
                continue
            _greet(connection, number, token)
            poll.modify(descriptor, select.POLLIN)
    return False


def _greet(connection: socket.socket, number: int, token: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(bytes([number]) + token)


def _received(connection: socket.socket) -> bytes | None:
    """The greeting that came; empty at the end of the stream, None if nothing came."""
    try:
        return connection.recv(17)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def _accept(listener: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while True:
            yield listener.accept()[0]
