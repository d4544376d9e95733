"""An edge of an attacker: it follows the protocol but changes the messages that it forwards."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from punchlab.punch.frames import Role
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.keys import PakeExchange

GUESS = Code.parse("k7x2mq-amber-falcon-zebra")
"""A code of the attacked session, but not the right one."""
PATIENCE_S = 30.0

OTHER: dict[str, Role] = {"sender": "receiver", "receiver": "sender"}

Json = dict[str, Any]
Tamper = Callable[[Json, str], Json]
"""Changes the description of a client for the one with the given role."""


def honestly(contact: Json, _to: str) -> Json:
    return contact


def own_exchange(contact: Json, to: str) -> Json:
    """Replace the key-exchange message by one made with a guessed code: a man in the middle."""
    return {**contact, "pake": PakeExchange(GUESS, OTHER[to]).message}


def no_exchange(contact: Json, _to: str) -> Json:
    return {**contact, "pake": None}


def one_bit(contact: Json, _to: str) -> Json:
    pake = bytearray.fromhex(contact["pake"])
    pake[-1] ^= 1
    return {**contact, "pake": pake.hex()}


def no_element(contact: Json, _to: str) -> Json:
    """A message of the right length that is no group element: the victim gets no session key."""
    pake = bytes.fromhex(contact["pake"])
    return {**contact, "pake": (pake[:1] + b"\xff" * (len(pake) - 1)).hex()}


def no_element_for_the_receiver(contact: Json, to: str) -> Json:
    """One victim has a wrong key and the other has none."""
    return own_exchange(contact, to) if to == "sender" else no_element(contact, to)


def other_traits(contact: Json, _to: str) -> Json:
    """Claim that the peer is behind another kind of NAT."""
    return {**contact, "traits": "invented by the edge"}


def its_own_message(contact: Json, _to: str) -> Json:
    """Return the client's own message to it."""
    return {**contact, "pake": contact["echo"]}


class MaliciousEdge:
    """Introduces one sender and one receiver to each other through `tamper`. `listener` is bound."""

    def __init__(self, tamper: Tamper, listener: socket.socket) -> None:
        self._tamper = tamper
        self._contacts: dict[str, Json] = {}
        self._both = threading.Barrier(2, timeout=PATIENCE_S)
        self._server: Server = serve(self._handle, sock=listener, process_request=self._only_clients)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _only_clients(self, connection: ServerConnection, request: Request) -> Response | None:
        return None if request.path == "/" else connection.respond(HTTPStatus.NOT_FOUND, "no such thing\n")

    def _handle(self, connection: ServerConnection) -> None:
        register = json.loads(connection.recv())
        ip, port = connection.remote_address
        public = f"{ip}:{port}"
        role = register["role"]
        said = {name: register[name] for name in ("private", "pake", "traits") if name in register}
        self._contacts[role] = {"public": public, **said}
        connection.send(json.dumps({"type": "welcome", "edge": "evil", "public": public}))
        self._both.wait()
        told = self._tamper({**self._contacts[OTHER[role]], "echo": register["pake"]}, role)
        connection.send(json.dumps({"type": "peer", **told, "via": "local"}))
        with contextlib.suppress(Exception):
            connection.recv()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


TAMPERINGS: list[tuple[Tamper, tuple[str, ...]]] = [
    (own_exchange, ("sender", "receiver")),
    (own_exchange, ("sender",)),
    (one_bit, ("receiver",)),
    (one_bit, ("sender", "receiver")),
    (no_element, ("receiver",)),
    (no_element_for_the_receiver, ("sender", "receiver")),
    (no_exchange, ("sender",)),
    (its_own_message, ("sender", "receiver")),
    (other_traits, ("sender", "receiver")),
    (other_traits, ("receiver",)),
]
"""Attacks and their victims."""


@contextlib.contextmanager
def malicious(tamper: Tamper, victims: tuple[str, ...], listener: socket.socket) -> Iterator[None]:
    """Run a malicious edge at a bound socket, which it closes."""
    edge = MaliciousEdge(lambda contact, to: tamper(contact, to) if to in victims else contact, listener)
    try:
        yield
    finally:
        edge.close()


def is_detected(role: str, victims: tuple[str, ...], outcome: object) -> bool:
    """Return whether a client exited correctly after its edge has tampered.

    The first client that fails closes the connection, possibly before the other, which has correct data, knows the
    reason.
    """
    return outcome == "wrong_peer" or (role not in victims and outcome in ("punch_timeout", "refused"))
