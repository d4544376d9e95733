"""The control attempt: before the client under test, sockets of the lab connect through the same NATs.

It distinguishes a failure of the lab from one of the client. Two new local ports discover their external endpoints
through a listener in an edge's node, both hosts listen, and both connect once. The oracle predicts whether a token
passes, given the measured skew of the two connect() calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
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
"""Above the ports of the punch client, so that they never share a mapping."""

_DEADLINE_S = 5.0
"""The deadline of events that must happen: a registration, or a predicted connection."""

_SILENCE_S = 0.25
"""How long, in addition to the delays, nothing may arrive if failure is predicted."""

_ANSWERS = {0, errno.EINPROGRESS, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.EHOSTUNREACH}
"""Valid results of connect(): in progress, already connected through the listener, or refused."""

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Control:
    """The result of the control attempt.

    `direct`: whether it connected; None if it was not possible, with the `reason`: a link is down, or a firewall drops
    it. `skew_s` is that of its two connect() calls, `prediction` the outcome prediction for that skew.
    """

    direct: bool | None
    skew_s: float | None = None
    prediction: Prediction | None = None
    reason: str | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether it agrees with the prediction. None if a single attempt does not decide or was not possible."""
        return None if self.direct is None or self.prediction is None else self.prediction.agrees(self.direct)


class _UnreachableError(Exception):
    """The attempt was not possible."""


def attempt(lab: Network, one: str, other: str) -> Control:
    """Try to connect once from both hosts."""
    try:
        return _attempt(lab, one, other)
    except _UnreachableError as error:
        return Control(None, reason=str(error))


def _attempt(lab: Network, one: str, other: str) -> Control:
    path = lab.path(one, other)
    with contextlib.ExitStack() as stack:
        registered = [_register(lab, host, stack) for host in (one, other)]
        listeners = [
            _listen(lab, host, local, stack) for host, (local, _public) in zip((one, other), registered, strict=True)
        ]
        connecting: list[socket.socket] = []
        instants: list[float] = []
        for host, (local, _own), (_local, public) in zip((one, other), registered, reversed(registered), strict=True):
            connection = _bound(lab, host, local, stack)
            instants.append(time.monotonic())
            answer = connection.connect_ex(public)
            if answer not in _ANSWERS:
                raise _UnreachableError(f"{host} cannot connect to {public[0]}:{public[1]}: {os.strerror(answer)}")
            connecting.append(connection)
        skew_s = instants[1] - instants[0]
        prediction = predict_outcome(
            lab,
            one,
            other,
            Dial(path.delay_s, skew_s, 1, _DEADLINE_S, path.loss, path.jitter_s),
        )
        silence = skew_s + 4 * (path.delay_s + path.jitter_s) + _SILENCE_S
        wait_s = silence if prediction.floor_s is None else _DEADLINE_S
        direct = _token_arrives(connecting, listeners, wait_s, stack)
    return Control(direct, skew_s, prediction)


def _register(lab: Network, host: str, stack: contextlib.ExitStack) -> tuple[Endpoint, Endpoint]:
    """Return a new local endpoint of the host, and its external endpoint as seen by an edge's node."""
    edge = lab.edges[0]
    registrar = stack.enter_context(edge.socket())
    registrar.bind((edge.address, 0))
    registrar.listen()
    registrar.settimeout(_DEADLINE_S)
    connection = _bound(lab, host, ("0.0.0.0", random.choice(_PORTS)), stack)  # noqa: S104 - inside the host's namespace
    connection.settimeout(_DEADLINE_S)
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
    # Close with a RST, so that no FIN of the control attempt is on the links when the client starts.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.bind(local)
    made.setblocking(False)
    return made


def _token_arrives(
    connecting: list[socket.socket], listeners: list[socket.socket], wait_s: float, stack: contextlib.ExitStack
) -> bool:
    """Return whether a token that one end sends arrives at the other end in time."""
    token = os.urandom(16)
    deadline = time.monotonic() + wait_s
    poll = select.poll()
    sides = {made.fileno(): (number, made) for number, made in enumerate(connecting)}
    waiting = {made.fileno(): (number, made) for number, made in enumerate(listeners)}
    for descriptor in sides:
        poll.register(descriptor, select.POLLOUT)
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _events in poll.poll(left * 1000):
            if descriptor in waiting:
                number, listener = waiting[descriptor]
                for accepted in _accept(listener):
                    stack.enter_context(accepted).setblocking(False)
                    sides[accepted.fileno()] = (number, accepted)
                    _greet(accepted, number, token)
                    poll.register(accepted.fileno(), select.POLLIN)
                continue
            number, connection = sides[descriptor]
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not _connected(connection):
                poll.unregister(descriptor)
                connection.close()  # refused: the attempt has ended, as a client's would
                continue
            greeting = _received(connection)
            if greeting == bytes([1 - number]) + token:  # from the other end: a socket can connect to itself
                return True
            if greeting == b"":
                poll.unregister(descriptor)
                continue
            _greet(connection, number, token)
            poll.modify(descriptor, select.POLLIN)
    return False


def _greet(connection: socket.socket, number: int, token: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(bytes([number]) + token)


def _received(connection: socket.socket) -> bytes | None:
    """Return the received greeting, empty at the end of the stream, None if nothing was received."""
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
