"""Run miniupnpd in the node of a NAT, from its start to the end of the lab.

miniupnpd announces itself to the inside hosts once all its sockets are open. `wait` returns after that announcement.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.nat.portmapping import COMMAND, CONFIGURATION, DAEMON, PACKAGE
from punchlab.lab.process.node import Node

_START_S = 10.0
_ETH_P_ALL = 3
_UDP = 17
_ANNOUNCEMENTS = {"enable_upnp=yes": ("239.255.255.250", 1900), "enable_natpmp=yes": ("224.0.0.1", 5350)}
"""The destinations of miniupnpd's announcements (UPnP NOTIFY, PCP ANNOUNCE) by configuration line, the last one first.
"""
_LOG_LINES = 3


def require() -> None:
    """Raise `MissingCapabilityError` unless a miniupnpd with nftables support is installed."""
    remedy = f"run `apt-get install {PACKAGE}`"
    try:
        version = subprocess.run([DAEMON, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        raise MissingCapabilityError(f"{DAEMON}: not installed; {remedy}") from None
    if "nftables" not in version:
        raise MissingCapabilityError(f"{DAEMON}: installed without nftables support; {remedy}")


class PortMapper:
    """A miniupnpd in the node. `inside` is the interface towards the hosts. It is ready after `wait`.

    Its files are on the sandbox's tmpfs.
    """

    def __init__(self, node: Node, inside: str, configuration: str) -> None:
        require()
        self._node = node
        # With both protocols, it is ready after the later announcement.
        self._announcement = next(where for line, where in _ANNOUNCEMENTS.items() if line in configuration.splitlines())
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="punchlab-", dir="/run")))
            self._log = folder / "log"
            (folder / CONFIGURATION).write_text(configuration)
            self._packets = stack.enter_context(_packets_of(node, inside))
            with self._log.open("wb") as log:
                self._process = node.popen(
                    COMMAND, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
                )
            self._stack = stack.pop_all()
        node.attach(self)

    def wait(self) -> None:
        """Wait until it has announced itself. Raises `LabError`."""
        deadline = time.monotonic() + _START_S
        ended = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._packets, selectors.EVENT_READ)
                selector.register(ended, selectors.EVENT_READ)
                while (left := deadline - time.monotonic()) > 0:
                    ready = {key.fileobj for key, _events in selector.select(left)}
                    if self._packets in ready and _destination(self._packets.recv(64)) == self._announcement:
                        return
                    if ended in ready:
                        self.check()
        finally:
            os.close(ended)
            self._packets.close()
        raise LabError(f"{self._node.name}: {DAEMON} was not ready within {_START_S:g} s: {self._errors()}")

    def check(self) -> None:
        """Raise `LabError` if the process has exited."""
        if (status := self._process.poll()) is not None:
            raise LabError(f"{self._node.name}: {DAEMON} exited with status {status}: {self._errors()}")

    def close(self) -> None:
        """Kill the process and remove its files. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stack.close()

    def _errors(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "; ".join(lines[-_LOG_LINES:]) or "no reason given"


def _packets_of(node: Node, interface: str) -> socket.socket:
    """Return a socket that receives a copy of every packet of the interface, from the IP header on."""
    with node.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    made.bind((interface, _ETH_P_ALL))
    return made


def _destination(packet: bytes) -> tuple[str, int] | None:
    """Return the destination of a UDP packet over IPv4, or None for another packet."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return None
    start = (packet[0] & 15) * 4
    return socket.inet_ntoa(packet[16:20]), int.from_bytes(packet[start + 2 : start + 4], "big")
