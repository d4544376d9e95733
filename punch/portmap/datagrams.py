"""One request to the gateway over UDP, and its response."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError

PORT = 5351
"""The server port of PCP and NAT-PMP (RFC 6887 section 19, RFC 6886 section 3.1)."""

_WAITS_S = (0.25, 0.5, 1.0)  # RFC 6886 section 3.1; the 3 s of PCP are too long for a user who waits


async def ask(server: Endpoint, question: bytes, fits: Callable[[bytes], bool]) -> bytes:
    """Return the first response that `fits`; the request is retransmitted after 250 ms, doubling. Raises
    `PortMappingError`."""
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(server)  # so that no other host can answer
            for wait_s in _WAITS_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await loop.sock_sendall(sock, question)
                        while not fits(answer := await loop.sock_recv(sock, 1500)):
                            await asyncio.sleep(0)  # let other tasks run, even if responses arrive without end
                        return answer
    except OSError as error:
        raise PortMappingError(f"{server}: {error.strerror}") from None
    raise PortMappingError(f"{server} does not answer")
