"""NATS servers for edge networks: a cluster with one server per edge."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.process.node import Node

PORT = 4222
"""TCP port for the edges."""

_ROUTE_PORT = 6222  # for the other servers
_START_S = 20.0
_POLL_S = 0.005
_ROUTE = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+ - rid:\d+ - Route connection created")


class NatsCluster:
    """A server in each of the nodes, connected to all others after `wait`."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = list(nodes)
        self._folder = tempfile.TemporaryDirectory(prefix="punchlab-nats-", dir="/run")
        self._servers: dict[str, subprocess.Popen[Any]] = {}
        try:
            for node in self._nodes:
                self._servers[node.name] = self._start(node)
        except BaseException:
            self.close()
            raise

    def urls(self, first: str) -> str:
        """Return the value of an edge's `--bus`: the URLs of all servers, that of the node `first` first."""
        nodes = sorted(self._nodes, key=lambda node: node.name != first)
        return ",".join(f"nats://{node.address}:{PORT}" for node in nodes)

    def wait(self) -> None:
        """Wait until every server has a route to every other. Raises `LabError`."""
        deadline = time.monotonic() + _START_S
        while missing := [node.name for node in self._nodes if not self._is_joined(node)]:
            if time.monotonic() > deadline:
                raise LabError(
                    f"{missing[0]}: the NATS server did not join the cluster: {self._log(missing[0])[-500:]}"
                )
            time.sleep(_POLL_S)  # the server sends no notification

    def kill(self, name: str) -> None:
        """Kill the server in that node."""
        self._servers[name].kill()
        self._servers[name].wait()

    def close(self) -> None:
        """End all servers."""
        for server in self._servers.values():
            if server.poll() is None:
                server.kill()
            server.wait()
        self._folder.cleanup()

    def _start(self, node: Node) -> subprocess.Popen[Any]:
        others = [f"nats://{other.address}:{_ROUTE_PORT}" for other in self._nodes if other is not node]
        words = ["nats-server", "-a", node.address, "-p", str(PORT), "-l", str(self._path(node.name))]
        words += ["--cluster", f"nats://{node.address}:{_ROUTE_PORT}", "--cluster_name", "lab"]
        if others:
            words += ["--routes", ",".join(others)]
        try:
            return node.popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            raise MissingCapabilityError("nats-server: not installed; run `apt-get install nats-server`") from None

    def _is_joined(self, node: Node) -> bool:
        if self._servers[node.name].poll() is not None:
            raise LabError(f"{node.name}: the NATS server exited: {self._log(node.name)[-500:]}")
        log = self._log(node.name)
        routes = set(_ROUTE.findall(log))
        return "Server is ready" in log and routes >= {other.address for other in self._nodes if other is not node}

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.log"

    def _log(self, name: str) -> str:
        path = self._path(name)
        return path.read_text() if path.exists() else ""
