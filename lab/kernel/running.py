"""Change interfaces, addresses, routes and connections of a running namespace with pyroute2.

pyroute2 is imported at the first change, because the import takes 0.1 to 0.5 s. Builds use `lab.kernel.rtnetlink`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from punchlab.lab.errors import LabError
from punchlab.lab.kernel.namespace import Namespace

_NO_DAD = 0x02
"""IFA_F_NODAD: duplicate address detection would block an IPv6 address for a second."""
_BLACKHOLE = {"type": "blackhole", "priority": 1 << 20}
"""Every other route to the same prefix has a lower metric and precedes the blackhole."""
_UP_TIMEOUT_S = 5.0


def load() -> None:
    """Import pyroute2 now, so that a later change does not wait for the import."""
    import pyroute2  # noqa: F401


class Changes:
    """Changes in one namespace, each in force on return. Addresses are "a.b.c.d/len" or IPv6. Raises `LabError`."""

    def __init__(self, route: Any) -> None:
        self._route = route

    def set_up(self, index: int) -> None:
        """Set the interface up."""
        self._route.link("set", index=index, state="up")

    def set_down(self, index: int) -> None:
        """Set the interface down. The kernel removes its routes and neighbors."""
        self._route.link("set", index=index, state="down")

    def wait_until_up(self, index: int) -> None:
        """Wait until the interface passes packets. Raises `LabError` after 5 seconds.

        The query makes Linux 6.8 update the state of a veth pair; older kernels update it asynchronously.
        """
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while self._route.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                raise LabError(f"netlink: interface {index} did not come up")
            time.sleep(0.001)

    def add_address(self, index: int, interface: str) -> None:
        """Add an address with its prefix length to the interface."""
        address, _slash, length = interface.partition("/")
        flags = {"flags": _NO_DAD} if ":" in address else {}
        self._route.addr("add", index=index, address=address, prefixlen=int(length), **flags)

    def delete_address(self, index: int, interface: str) -> None:
        """Delete an address from the interface."""
        address, _slash, length = interface.partition("/")
        self._route.addr("del", index=index, address=address, prefixlen=int(length))

    def replace_route(self, destination: str, gateway: str) -> None:
        """Add a route through a gateway, or change the gateway of the existing one."""
        self._route.route("replace", dst=destination, gateway=gateway)

    def add_blackhole(self, destination: str) -> None:
        """Silently drop packets to the prefix while no other route matches."""
        self._route.route("add", dst=destination, **_BLACKHOLE)

    def delete_blackhole(self, destination: str) -> None:
        """Revert `add_blackhole`."""
        self._route.route("del", dst=destination, **_BLACKHOLE)

    def replace_neighbor(self, index: int, address: str, mac: str) -> None:
        """Add a permanent neighbor entry, or replace the existing one."""
        self._route.neigh("replace", ifindex=index, dst=address, lladdr=mac, state="permanent")

    def delete_neighbor(self, index: int, address: str) -> None:
        """Delete a neighbor entry."""
        self._route.neigh("del", ifindex=index, dst=address)


@contextmanager
def changes(space: Namespace) -> Iterator[Changes]:
    """Open an rtnetlink socket in the namespace. A request that the kernel rejects raises `LabError`."""
    from pyroute2 import IPRoute, NetlinkError

    with space.entered():
        route = IPRoute()
    try:
        with route:
            yield Changes(route)
    except NetlinkError as error:
        raise LabError(f"netlink: {error.args[1]}") from None


def flush_connections(space: Namespace, name: str) -> None:
    """Delete all conntrack entries of the namespace. `name` is the node in error messages. Raises `LabError`."""
    from pyroute2 import NetlinkError, NFCTSocket

    try:
        with space.entered(), NFCTSocket(nfgen_family=socket.AF_UNSPEC) as conntrack:
            conntrack.flush()
    except NetlinkError as error:
        raise LabError(f"{name}: conntrack: {error.args[1]}; run `modprobe nf_conntrack_netlink`") from None
