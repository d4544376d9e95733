"""Find the nearest of several edges: the one whose TCP handshake completes first.

The client connects to all edges at the same time, twice each, so that one lost SYN (retransmitted after a second) does
not make an edge look distant. Once one edge has answered, the client does not wait for much slower ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Sequence

from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.net.websocket import resolve

TRIES = 2
TIMEOUT_S = 3.0
_PATIENCE = 3.0  # how many of the shortest round trips to wait for other edges, and at least:
_PATIENCE_S = 0.1


async def nearest_first(urls: Sequence[EdgeUrl]) -> list[tuple[EdgeUrl, float]]:
    """Return `urls` with their round-trip times in seconds, the shortest first.

    Edges that do not answer in time or are unreachable come last, in the given order, with infinity.
    """
    distances = dict.fromkeys(urls, math.inf)
    if len(distances) < 2:
        return list(distances.items())
    tasks = {asyncio.create_task(_round_trip(url)): url for url in distances for _ in range(TRIES)}
    waiting, patience_s = set(tasks), TIMEOUT_S
    started = time.monotonic()
    try:
        while waiting and (left := started + patience_s - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                distances[tasks[task]] = min(distances[tasks[task]], task.result())
            best = min(distances.values())
            if best < math.inf and patience_s == TIMEOUT_S:
                patience_s = min(TIMEOUT_S, time.monotonic() - started + max(_PATIENCE * best, _PATIENCE_S))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(distances.items(), key=lambda each: each[1])


async def _round_trip(url: EdgeUrl) -> float:
    """Return the duration of a TCP handshake in seconds; infinity if it fails."""
    with contextlib.suppress(OSError):
        address = await resolve(url)
        with socket.socket(address.family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            started = time.monotonic()
            await asyncio.get_running_loop().sock_connect(sock, address)
            return time.monotonic() - started
    return math.inf
