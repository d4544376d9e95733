"""TLS served by the edge itself, so that it still sees its clients' addresses."""

from __future__ import annotations

import ssl
from pathlib import Path

from punch.errors import InputError

HANDSHAKE_TIMEOUT_S = 10.0


class ServerTls:
    """A certificate (with its chain) and its key, in PEM. Raises `InputError` if they cannot be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.reload()

    def reload(self) -> None:
        """Read the files again, for connections to come. Raises `InputError`, and changes nothing then."""
        certificate, key = self._files
        for field, path in (("tls-cert", certificate), ("tls-key", key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise InputError(field, str(path), f"a file that can be read ({error.strerror})") from None
        try:
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(certificate, key, password=_no_password)
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError):
            expected = f"a certificate in PEM that belongs to the unencrypted key {str(key)!r}"
            raise InputError("tls-cert", str(certificate), expected) from None


def _no_password() -> str:
    """Without this, OpenSSL would ask at the terminal."""
    return ""
