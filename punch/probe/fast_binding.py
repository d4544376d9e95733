"""A look at the latest mapping: a fresh connection to a STUN server, whose SYN is sent at a moment of one's choice.

The tests of `punch.probe.tcp` wait for each answer before they go on. Where other hosts make mappings too, that is too
slow to see a sequence: here all SYNs are out before the first answer is read.
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


class Look:
    """One connection to `server` from `local` (default: a fresh endpoint), open as long as the `with` block.

    It ends by a RST: neither this host nor the NAT remembers it, and the same two endpoints may look again.
    Raises `OSError` where no socket is to be had.
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
        """Where the server sees it come from; None, after `patience_s`, if it does not say so. Call `start` before."""
        return await answer_or_silence(patience_s, self._seen())

    async def _seen(self) -> Endpoint | None:
        if self._number == errno.EINPROGRESS:
            self._number = await connect_result(self._sock)
        return await binding(self._sock) if self._number == 0 else None
