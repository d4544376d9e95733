"""Two sides that have to agree on one of several connections, which are socket pairs."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Role
from punchlab.punch.punching.agreement import Agreement
from punchlab.punch.punching.puncher import Connection
from punchlab.punch.secure.channel import Proofs, Stream, exchange_hellos
from punchlab.punch.secure.guesses import Exposure, Guesses
from tests.punch.wires import INTRODUCED, KEY, SESSION, TAGS


def pair(
    key: bytes = KEY,
    other_key: bytes = KEY,
    *,
    guesses: Guesses | None = None,
    receiver_guesses: Guesses | None = None,
) -> tuple[Agreement, Agreement]:
    agreements = []
    sides: tuple[tuple[Role, bytes, Guesses | None], ...] = (
        ("sender", key, guesses),
        ("receiver", other_key, receiver_guesses),
    )
    for role, its_key, budget in sides:
        agreements.append(Agreement(role, Exposure(Guesses() if budget is None else budget)))
        agreements[-1].begin(INTRODUCED, functools.partial(bytes, its_key))
    return agreements[0], agreements[1]


@contextlib.contextmanager
def connections(count: int) -> Iterator[list[tuple[Connection, Connection]]]:
    with contextlib.ExitStack() as stack:
        made = []
        for index in range(count):
            ends = [stack.enter_context(end) for end in socket.socketpair()]
            for end in ends:
                end.setblocking(False)
            here, there = Endpoint("127.0.0.2", index + 1), Endpoint("127.0.0.3", index + 1)
            made.append((Connection(ends[0], here, there, "connect"), Connection(ends[1], there, here, "accept")))
        yield made


async def hear_proof(stream: Stream) -> Proofs:
    """Act as a receiver that verifies the sender's proof and does not answer yet."""
    proofs = (await exchange_hellos(stream, "receiver", TAGS)).agree(SESSION, KEY)
    await proofs.verify()
    return proofs
