"""A STUN binding over a fresh TCP connection, whose SYN is sent at a chosen moment.

The tests of `punch.probe.tcp` wait for each answer before the next request. If other hosts create mappings too, that is
too slow to observe a sequence of ports. Here all SYNs are sent before the first answer is read.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType
from typing import Self

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.sockets import bound_socket, choose_local, connect_result
from punchlab.punch.probe.patience import answer_or_silence
from punchlab.punch.probe.tcp import binding


class FastBinding:
    """One connection to `server` from `local` (default: a fresh endpoint), open during the `with` block.

    It is closed with a RST, so that neither this host nor the NAT keeps state, and the same two endpoints can connect
    again. Raises `OSError` if no socket is available.
    """

    def __init__(self, server: Endpoint, local: Endpoint | None = None) -> None:
        self.local = local or choose_local(None, server)
        self.server = server
        self._sock = bound_socket(self.local)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def start(self) -> None:
        """Send the SYN."""
        self._number = self._sock.connect_ex(self.server)

    async def external(self, patience_s: float) -> Endpoint | None:
        """Return the endpoint that the server sees, or None after `patience_s` seconds. Call `start` first."""
        return await answer_or_silence(patience_s, self._seen())

    async def _seen(self) -> Endpoint | None:
        if self._number == errno.EINPROGRESS:
            self._number = await connect_result(self._sock)
        return await binding(self._sock) if self._number == 0 else None
