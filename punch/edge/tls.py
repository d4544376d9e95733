"""TLS served by the edge itself, so that it still sees its clients' addresses.

A TLS connection of asyncio has a buffer of 256 KiB for what it reads, from its first byte to its last: several times
what everything else about it needs. Frames of clients have 4 KiB, and so has that buffer here.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from pathlib import Path

from punchlab.punch.errors import ArgumentError

HANDSHAKE_TIMEOUT_S = 5.0
READ_BYTES = 4_096  # that one read of a connection brings; OpenSSL takes its records of 16 KiB in pieces
_UNSENT_BYTES = 8_192  # encrypted, that wait for a client before no more are encrypted


class _SmallTls(sslproto.SSLProtocol):
    """TLS of asyncio, with less memory for each connection."""

    max_size = READ_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there; begin with TLS."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        super().connection_made(transport)


def save_memory() -> None:
    """Have all TLS of this process, from now on, use less memory.

    asyncio has no setting for this, and makes its connections of the class that its module has by this name. Where it
    does not (any more), TLS works as before and needs 256 KiB for each connection.
    """
    sslproto.SSLProtocol = _SmallTls  # type: ignore[misc]


class ServerTls:
    """A certificate (with its chain) and its key, in PEM. Raises `ArgumentError` if they cannot be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Every client is a Python that has 1.3; sessions of 1.2 would be kept, 20,000 of them, and can be renegotiated.
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.num_tickets = 0  # clients come once
        self.reload()

    def reload(self) -> None:
        """Read the files again, for connections to come. Raises `ArgumentError`, and changes nothing then."""
        certificate, key = self._files
        for field, path in (("tls-cert", certificate), ("tls-key", key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise ArgumentError(field, str(path), f"a file that can be read ({error.strerror})") from None
        try:
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(certificate, key, password=_no_password)
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError):
            expected = f"a certificate in PEM that belongs to the unencrypted key {str(key)!r}"
            raise ArgumentError("tls-cert", str(certificate), expected) from None


def _no_password() -> str:
    """Without this, OpenSSL would ask at the terminal."""
    return ""
