"""nats-py's client for servers that are not trusted: what one says ends at worst the connection with it.

The library leaves its tasks by exceptions that nobody handles when a server breaks the protocol, reads messages of any
size, connects to whatever servers one of them names, and leaves a connection open that comes to nothing before the
server has taken it. It has no options against that, so that its methods are extended here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client, Srv
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

MAX_BYTES = 1 << 20  # of what is not yet understood: servers allow 1 MiB for a message, and our own have 4 KiB


class BoundedClient(Client):
    """Connects to the servers that it was given and no others; other exceptions of the reader are `ProtocolError`."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        self._given_up = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        info.pop("connect_urls", None)
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Srv) -> None:
        self._close_transport()
        await super()._connect_to_server(s)
        if self._given_up:  # wait_for, in the library, may swallow the cancellation (gh-86296)
            self._close_transport()
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Close the connection, also one that the library has given up."""
        self._given_up = True
        try:
            await super().close()
        finally:
            self._close_transport()
            for each in self._subs.values():  # made after the library had closed this client by itself
                if each._wait_for_msgs_task is not None:
                    each._wait_for_msgs_task.cancel()

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]

    async def _attempt_reconnect(self) -> None:
        try:
            await super()._attempt_reconnect()
        except Exception as error:  # the task would end, and nobody know that there is no connection any more
            await self._error_cb(error)
            await self._close(Client.CLOSED)


class _Parser(Parser):
    async def parse(self, data: bytes = b"") -> None:
        try:
            await super().parse(data)
            if max(self.needed, len(self.buf)) > MAX_BYTES:
                raise ProtocolError("nats: too long a message")
        except Exception as error:
            await self.nc._error_cb(error)
            raise ProtocolError(str(error)) from error
