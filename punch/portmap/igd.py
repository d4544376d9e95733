"""UPnP Internet Gateway Device (WANIPConnection:1 and :2, WANPPPConnection:1), discovered by SSDP.

The description of the device contains the URL of a service that creates mappings, which is called by SOAP (UPnP Device
Architecture 1.1, sections 2 and 3). Only the texts of XML elements are used. A document type is rejected, so that
entities cannot expand a small document into a large one.
"""

from __future__ import annotations

from xml.parsers import expat
from xml.sax.saxutils import escape

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, PortMappingError
from punchlab.punch.portmap.http import DeviceUrl, ask
from punchlab.punch.portmap.ssdp import gateway_device
from punchlab.punch.text import printable

_DESCRIPTION = "punch"
_LONGEST_REASON = 100  # characters
_SERVICES = tuple(
    f"urn:schemas-upnp-org:service:{name}" for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)


class Igd:
    """A mapping of the local endpoint (same external port) by the gateway device that answers on the network."""

    name = "UPnP IGD"

    def __init__(self, local: Endpoint) -> None:
        self._local = local
        self._service = ""
        self._control: DeviceUrl | None = None

    async def find(self) -> None:
        """See `Mapper`."""
        url = await gateway_device(self._local.ip)
        status, description = await ask(url, self._local.ip)
        if status != 200:
            raise PortMappingError(f"{url}: HTTP status {status}")
        controls = _controls(texts(description))
        self._service = next((each for each in _SERVICES if each in controls), "")
        if not self._service:
            raise PortMappingError(f"{url}: the device offers no port mapping service")
        self._control = url.joined(controls[self._service])

    async def request(self, lifetime_s: int) -> Endpoint:
        """See `Mapper`."""
        port = self._local.port
        await self._call(
            "AddPortMapping",
            **self._mapping,
            NewInternalPort=port,
            NewInternalClient=self._local.ip,
            NewEnabled=1,
            NewPortMappingDescription=_DESCRIPTION,
            NewLeaseDuration=lifetime_s,
        )
        ip = (await self._call("GetExternalIPAddress")).get("NewExternalIPAddress", "")
        try:
            return Endpoint.parse(f"{ip}:{port}")
        except ArgumentError as error:
            raise PortMappingError(str(error)) from None

    async def remove(self) -> None:
        """See `Mapper`."""
        await self._call("DeletePortMapping", **self._mapping)

    @property
    def _mapping(self) -> dict[str, str | int]:
        return {"NewRemoteHost": "", "NewExternalPort": self._local.port, "NewProtocol": "TCP"}

    async def _call(self, action: str, **arguments: str | int) -> dict[str, str]:
        """Call an action of the service; return the texts of the response by element. Raises `PortMappingError`."""
        if self._control is None:
            raise PortMappingError("no gateway device")
        body = (
            '<?xml version="1.0"?>'
            '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
            's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
            f'<u:{action} xmlns:u="{self._service}">'
            + "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
            + f"</u:{action}></s:Body></s:Envelope>"
        )
        status, answer = await ask(
            self._control,
            self._local.ip,
            body.encode(),
            Content_Type='text/xml; charset="utf-8"',
            SOAPAction=f'"{self._service}#{action}"',
        )
        values = dict(texts(answer)) if answer else {}
        if status != 200:
            reason = f"{values.get('errorCode', '')} {values.get('errorDescription', '')}".strip()
            raise PortMappingError(
                f"{action} is refused: {printable(reason, _LONGEST_REASON) or f'HTTP status {status}'}"
            )
        return values


def texts(document: bytes) -> list[tuple[str, str]]:
    """Return local name and text of each element of an XML document, in the order of the end tags.

    Raises `PortMappingError`.
    """
    found: list[tuple[str, str]] = []
    open_texts: list[list[str]] = []
    parser = expat.ParserCreate()

    def end(name: str) -> None:
        found.append((name.rpartition(":")[2], "".join(open_texts.pop()).strip()))

    def text(data: str) -> None:
        if open_texts:
            open_texts[-1].append(data)

    def refuse(*_declaration: object) -> None:
        raise PortMappingError("the gateway device sent XML with a document type")

    parser.StartElementHandler = lambda _name, _attributes: open_texts.append([])
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, ValueError, LookupError):  # the last two: unknown encoding
        raise PortMappingError("the gateway device sent invalid XML") from None
    return found


def _controls(described: list[tuple[str, str]]) -> dict[str, str]:
    """Return the control URLs of services by their types; if a type occurs twice, the first one counts."""
    controls: dict[str, str] = {}
    service: dict[str, str] = {}
    for name, text in described:
        if name == "service":
            controls.setdefault(service.get("serviceType", ""), service.get("controlURL", ""))
            service = {}
        else:
            service[name] = text
    return controls
