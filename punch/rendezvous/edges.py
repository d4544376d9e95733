"""Which of several edges is nearest: the one whose TCP handshake is done first.

All are dialled at the same time, each twice, so that one lost SYN (repeated after a second) does not make an edge look
far away. Once one has answered, those that take several times as long are not waited for.
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
_PATIENCE = 3.0  # times the shortest round trip, and at least:
_PATIENCE_S = 0.1


async def nearest_first(urls: Sequence[EdgeUrl]) -> list[tuple[EdgeUrl, float]]:
    """`urls` with their round trips in seconds, the shortest first.

    Those that did not answer in time, or cannot be reached, come last, as they were given, with an infinite one.
    """
    distances = dict.fromkeys(urls, math.inf)
    if len(distances) < 2:
        return list(distances.items())
    tasks = {asyncio.create_task(_round_trip(url)): url for url in distances for _ in range(TRIES)}
    waiting, patience_s = set(tasks), TIMEOUT_S
    begun = time.monotonic()
    try:
        while waiting and (left := begun + patience_s - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                distances[tasks[task]] = min(distances[tasks[task]], task.result())
            best = min(distances.values())
            if best < math.inf and patience_s == TIMEOUT_S:
                patience_s = min(TIMEOUT_S, time.monotonic() - begun + max(_PATIENCE * best, _PATIENCE_S))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(distances.items(), key=lambda each: each[1])


async def _round_trip(url: EdgeUrl) -> float:
    """Seconds that a TCP handshake takes; infinite if there is none."""
    with contextlib.suppress(OSError):
        address = await resolve(url)
        with socket.socket(address.family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            begun = time.monotonic()
            await asyncio.get_running_loop().sock_connect(sock, address)
            return time.monotonic() - begun
    return math.inf
