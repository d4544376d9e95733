"""SSDP, the discovery of UPnP devices (UPnP Device Architecture 1.1, section 1.3).

Any host on the local network may answer, so a URL at another address than that of the responder is rejected.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket

from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap.http import DeviceUrl

_GROUP = ("239.255.255.250", 1900)
_WAITS_S = (0.25, 0.5, 1.0)
_TTL = 2  # section 1.3.2
_SEARCH = (
    b"M-SEARCH * HTTP/1.1\r\n"
    b"HOST: 239.255.255.250:1900\r\n"
    b'MAN: "ssdp:discover"\r\n'
    b"MX: 1\r\n"
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"  # version 2 devices answer as well
    b"\r\n"
)
_LOCATION = re.compile(rb"\r\nlocation:[ \t]*(http://[!-~]{1,500})\r\n", re.IGNORECASE)


async def gateway_device(local_ip: str) -> DeviceUrl:
    """Return the URL of the description of the first gateway device that answers. Raises `PortMappingError`."""
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind((local_ip, 0))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(local_ip))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            for wait_s in _WAITS_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await loop.sock_sendto(sock, _SEARCH, _GROUP)
                        while (url := _location(*await loop.sock_recvfrom(sock, 2048))) is None:
                            await asyncio.sleep(0)  # let other tasks run, even if responses arrive without end
                        return url
    except OSError as error:
        raise PortMappingError(f"no gateway device: {error.strerror}") from None
    raise PortMappingError("no gateway device answers")


def _location(answer: bytes, source: tuple[str, int]) -> DeviceUrl | None:
    found = _LOCATION.search(answer)
    if found is None or not answer.startswith(b"HTTP/1.1 200"):
        return None
    try:
        return DeviceUrl.parse(found[1].decode("ascii"), source[0])
    except PortMappingError:
        return None
