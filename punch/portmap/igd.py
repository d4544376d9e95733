"""UPnP's Internet Gateway Device (WANIPConnection:1 and :2): found by SSDP, spoken to by the library miniupnpc.

miniupnpc blocks, so it runs in a thread. The extra `upnp` installs it; without it the other protocols have to do.
"""

from __future__ import annotations

import asyncio
from typing import Any

from punch.endpoint import Endpoint
from punch.errors import InputError, PortMappingError
from punch.portmap.ssdp import gateway_device

_DESCRIPTION = "punch"


class Igd:
    """A mapping of the local endpoint (the same port outside) by whatever gateway device answers on the network."""

    name = "UPnP IGD"

    def __init__(self, local: Endpoint) -> None:
        self._local = local
        self._device: Any = None

    async def find(self) -> None:
        """See `Mapper`."""
        self._device = await asyncio.to_thread(_select, await gateway_device(self._local.ip))

    async def request(self, lifetime_s: int) -> Endpoint:
        """See `Mapper`."""
        return await asyncio.to_thread(self._request, lifetime_s)

    async def remove(self) -> None:
        """See `Mapper`."""
        await asyncio.to_thread(self._remove)

    def _request(self, lifetime_s: int) -> Endpoint:
        port = self._local.port
        try:
            arguments = (port, "TCP", self._local.ip, port, _DESCRIPTION, "", lifetime_s)
            if not self._device.addportmapping(*arguments):
                raise PortMappingError("refused, without a reason")
            return Endpoint.parse(f"{self._device.externalipaddress()}:{port}")
        except InputError as error:
            raise PortMappingError(str(error)) from None
        except PortMappingError:
            raise
        except Exception as error:
            raise PortMappingError(f"refused: {error}") from None

    def _remove(self) -> None:
        try:
            self._device.deleteportmapping(self._local.port, "TCP", "")
        except Exception as error:
            raise PortMappingError(f"cannot be taken back: {error}") from None


def _select(url: str) -> Any:
    """The device with its description at that URL."""
    try:
        import miniupnpc
    except ImportError:
        raise PortMappingError("the package miniupnpc is not installed (extra `upnp`)") from None
    device = miniupnpc.UPnP()
    try:
        device.selectigd(url)
    except Exception as error:  # it has no class of its own
        raise PortMappingError(f"{url}: no gateway device: {error}") from None
    return device
