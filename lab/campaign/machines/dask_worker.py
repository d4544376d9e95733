"""The Dask worker of a machine. Imports `distributed`, so it is imported only when a worker starts."""

from __future__ import annotations

import ipaddress
from typing import Any

from distributed import Worker
from distributed.comm.addressing import get_address_host, get_local_address_for


class OneAddressWorker(Worker):
    """A worker that listens only at the local address from which it reaches the scheduler, and has no HTTP server.

    Dask's own worker listens at all addresses, with a port for its protocol and one for HTTP. Raises `OSError` if the
    name of the scheduler does not resolve.
    """

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, host=get_local_address_for(address), nanny=None, dashboard=False, **options)

    def start_http_server(self, *_arguments: Any, **_options: Any) -> None:
        """Start none. Dask has no option for this."""


def is_exposed(address: str) -> bool:
    """Return whether other machines can reach a worker of this scheduler without a certificate."""
    if address.startswith("tls://"):
        return False
    local = get_address_host(f"{get_local_address_for(address)}:0")  # Dask parses only addresses with a port
    return not ipaddress.ip_address(local).is_loopback
