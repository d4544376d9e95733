"""The bus that the user selects: `mesh`, or the servers of a NATS cluster."""

from __future__ import annotations

import re

from punchlab.punch.errors import ArgumentError

_SERVER = re.compile(
    r"(?:nats|tls)://(?:[^\s,/@]+@)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251})):(?P<port>[0-9]{1,5})/?"
)


def parse_bus(text: str, *, field: str = "bus") -> list[str]:
    """Return the URLs of the NATS servers, or an empty list for `mesh`. Raises `ArgumentError`."""
    if text == "mesh":
        return []
    servers = text.split(",")
    for server in servers:
        match = _SERVER.fullmatch(server)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ArgumentError(field, server, "mesh, or comma-separated nats://HOST:PORT")
    return servers
