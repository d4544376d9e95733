"""A client of nats-py for untrusted servers: a server can at most end the connection to itself.

When a server breaks the protocol, the library's tasks end with exceptions that nothing handles. It reads messages of
any size, connects to the servers that a server announces, and leaks a connection that fails before the server has
accepted it. It has no options against that, so this module overrides its methods.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client, Srv
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

MAX_BYTES = 1 << 20  # of unparsed data: servers allow messages of 1 MiB, and our own have 4 KiB


class BoundedClient(Client):
    """Connects only to the servers that it was given, and turns every exception of the reader into `ProtocolError`."""

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
        """Close the connection, including one that the library has abandoned."""
        self._given_up = True
        try:
            await super().close()
        finally:
            self._close_transport()
            for each in self._subs.values():  # created after the library had closed this client by itself
                if each._wait_for_msgs_task is not None:
                    each._wait_for_msgs_task.cancel()

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]

    async def _attempt_reconnect(self) -> None:
        try:
            await super()._attempt_reconnect()
        except Exception as error:  # otherwise the task would end, and the loss of the connection would not be detected
            await self._error_cb(error)
            await self._close(Client.CLOSED)


class _Parser(Parser):
    async def parse(self, data: bytes = b"") -> None:
        try:
            await super().parse(data)
            if max(self.needed, len(self.buf)) > MAX_BYTES:
                raise ProtocolError(f"nats: message longer than {MAX_BYTES} bytes")
        except Exception as error:
            await self.nc._error_cb(error)
            raise ProtocolError(str(error)) from error
