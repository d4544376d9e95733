"""TLS served by the edge itself, so that the edge sees its clients' addresses.

A TLS connection of asyncio has a read buffer of 256 KiB for its whole life, several times the rest of its memory.
Frames of clients have 4 KiB, and so has that buffer here.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from pathlib import Path

from punchlab.punch.errors import ArgumentError

HANDSHAKE_TIMEOUT_S = 5.0
READ_BYTES = 4_096  # of one read; OpenSSL accepts its records of 16 KiB in pieces
_UNSENT_BYTES = 8_192  # encrypted bytes that are buffered for a client before encryption pauses


class _SmallTls(sslproto.SSLProtocol):
    """TLS of asyncio with less memory per connection."""

    max_size = READ_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limit the write buffer of a new TCP connection and start TLS."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        super().connection_made(transport)


def save_memory() -> None:
    """Make all later TLS connections of this process use less memory.

    asyncio has no setting for this, so the class is replaced in its module. If a later version of asyncio uses another
    class, TLS still works and needs 256 KiB per connection.
    """
    sslproto.SSLProtocol = _SmallTls  # type: ignore[misc]


class ServerTls:
    """A certificate (with its chain) and its key, in PEM. Raises `ArgumentError` if they are not usable."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # All clients support 1.3. TLS 1.2 would cache 20,000 sessions and allow renegotiation.
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.num_tickets = 0  # clients do not resume TLS sessions
        self.reload()

    def reload(self) -> None:
        """Read the files again for later connections. Raises `ArgumentError`, and changes nothing, if they are not
        usable."""
        certificate, key = self._files
        for field, path in (("tls-cert", certificate), ("tls-key", key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise ArgumentError(field, str(path), f"a readable file ({error.strerror})") from None
        try:
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(certificate, key, password=_no_password)
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError):
            expected = f"a certificate in PEM that belongs to the unencrypted key {str(key)!r}"
            raise ArgumentError("tls-cert", str(certificate), expected) from None


def _no_password() -> str:
    """Prevent OpenSSL from prompting for a password at the terminal."""
    return ""
