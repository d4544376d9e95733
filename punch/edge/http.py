"""The HTTP side of an edge: access control for its WebSocket paths, `/healthz` and `/metrics`.

An edge gives each client's source address to the peer, so it must see that address itself. Behind a reverse proxy every
client has the address of the proxy, and hole punching is impossible. Proxies add header fields; a request with one of
those gets no WebSocket. (`X-Forwarded-For` cannot replace the source address: anybody can write anything into it, and
so make a third party a target; and it has no port.)

No client of an edge is a browser, and a web page must not use the address or the network of its visitor to talk to an
edge. A request with `Origin`, which every browser sends for a WebSocket (RFC 6455 section 4.1), is rejected.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from punchlab.punch.edge.bus.mesh import PATH as MESH_PATH
from punchlab.punch.edge.metrics import CONTENT_TYPE, Metrics
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError
from punchlab.punch.events import Reporter
from punchlab.punch.probe.frames import PATH as PROBE_PATH

CLIENT_PATH = "/"
HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"
PROXY_FIELDS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
ANYONE: Networks = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
THIS_MACHINE: Networks = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


def parse_networks(texts: Sequence[str], *, field: str) -> Networks:
    """Parse networks such as 192.0.2.0/24 or single addresses; `none` adds nothing. Raises `ArgumentError`."""
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for text in texts:
        if text != "none":
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                raise ArgumentError(field, text, "a network such as 192.0.2.0/24, an address, or none") from None
    return tuple(networks)


@dataclass(frozen=True)
class Access:
    """The networks that may join this edge, and those that may read its metrics."""

    mesh: Networks = ()
    metrics: Networks = THIS_MACHINE


class HttpHandler:
    """Answers requests, and lets requests for the paths in `sockets` become WebSockets.

    `draining` is set while the edge shuts down.
    """

    draining = False

    def __init__(self, access: Access, metrics: Metrics, report: Reporter, sockets: Collection[str]) -> None:
        self._access, self._metrics, self._report = access, metrics, report
        self._sockets = sockets

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the response to a request, or None if it may become a WebSocket."""
        path = request.path.partition("?")[0]
        if connection.remote_address is None:
            return connection.respond(HTTPStatus.BAD_REQUEST, "the connection is closed\n")
        public = Endpoint.of(connection.remote_address)
        # Older versions of the library accept no method except GET.
        method = getattr(request, "method", "GET")
        allowed = ("GET",) if path in self._sockets else ("GET", "HEAD")
        response: Response | None
        if method in allowed:
            response = self._page(connection, request, public, path)
        else:
            response = connection.respond(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {' or '.join(allowed)}\n")
            response.headers["Allow"] = ", ".join(allowed)
        if response is not None and method == "HEAD":
            response.body = b""
        return response

    def _page(self, connection: ServerConnection, request: Request, public: Endpoint, path: str) -> Response | None:
        if path == HEALTH_PATH:
            if self.draining:
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
            return connection.respond(HTTPStatus.OK, "ok\n")
        if path == METRICS_PATH:
            if not _within(public.ip, self._access.metrics):
                return connection.respond(HTTPStatus.FORBIDDEN, "this address has no access\n")
            response = connection.respond(HTTPStatus.OK, self._metrics.render().decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if path not in self._sockets:
            return connection.respond(HTTPStatus.NOT_FOUND, self._paths())
        return self._socket(connection, request, public, path)

    def _socket(self, connection: ServerConnection, request: Request, public: Endpoint, path: str) -> Response | None:
        if "Origin" in request.headers:
            reason = "browsers (requests with Origin) cannot be clients of an edge"
            self._report("rejected", public=str(public), reason=reason, kind="origin")
            return connection.respond(HTTPStatus.FORBIDDEN, f"{reason}\n")
        if path == MESH_PATH:
            if _within(public.ip, self._access.mesh):
                return None
            self._report("rejected", public=str(public), reason="this address may not join the mesh", kind="mesh")
            return connection.respond(HTTPStatus.FORBIDDEN, "this address has no access\n")
        if self.draining:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "this edge is shutting down\n")
        hidden = next((field for field in PROXY_FIELDS if field in request.headers), None)
        if hidden is not None:
            reason = f"a proxy ({hidden}) hides the client's address, which this edge needs"
            self._report("rejected", public=str(public), reason=reason, kind="proxy")
            return connection.respond(HTTPStatus.FORBIDDEN, f"{reason}\n")
        return None

    def _paths(self) -> str:
        probes = f", probing clients to {PROBE_PATH}" if PROBE_PATH in self._sockets else ""
        return f"clients connect to {CLIENT_PATH}, edges to {MESH_PATH}{probes} (with --stun)\n"


def _within(ip: str, networks: Networks) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address in network for network in networks)
