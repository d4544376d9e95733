"""A node of a running lab: a network namespace with commands and sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from punchlab.lab.confinement.shares import Plan
from punchlab.lab.errors import LabError
from punchlab.lab.graph import GraphNode, Interface
from punchlab.lab.kernel import leftovers
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.process import forked

_IPV6_TIMEOUT_S = 5.0
_RTF_LOCAL = 0x80000000
"""From linux/ipv6_route.h: a route to an address of the node itself."""


class Helper(Protocol):
    """A helper process that belongs to a node."""

    def wait(self) -> None:
        """Wait until it is ready. Raises `LabError`."""

    def check(self) -> None:
        """Raise `LabError` if it has exited."""

    def close(self) -> None:
        """End the process."""


Process = subprocess.Popen[Any] | forked.ForkedProcess


class Node:
    """A node. At the end of the lab, all processes started in it are killed, including their descendants."""

    def __init__(self, graph: GraphNode, namespace: Namespace) -> None:
        self.graph, self.namespace = graph, namespace
        self._processes: list[Process] = []
        self._used = False
        self._helpers: list[Helper] = []

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} {self.address}>" if self.kind != "switch" else f"<switch {self.name}>"

    @property
    def name(self) -> str:
        """The name in the topology."""
        return self.graph.name

    @property
    def kind(self) -> str:
        """ "host", "router", "edge", "nat" or "switch"."""
        return self.graph.kind

    @property
    def address(self) -> str:
        """The IPv4 address of the first interface."""
        return self.graph.address

    @property
    def address6(self) -> str:
        """The IPv6 address of the first interface that has one. Raises `LabError` if there is none."""
        if self.graph.address6 is None:
            raise LabError(f"node {self.name} has no IPv6 address")
        return self.graph.address6

    def wait_for_ipv6(self, interfaces: Iterable[Interface]) -> None:
        """Wait until the node accepts packets to the IPv6 addresses of these interfaces.

        The kernel adds the local routes asynchronously, even without duplicate address detection; until then it drops
        such packets. Raises `LabError` after 5 seconds.
        """
        addresses = (interface.address6 for interface in interfaces)
        missing = {ipaddress.IPv6Interface(address).packed.hex() for address in addresses if address is not None}
        deadline = time.monotonic() + _IPV6_TIMEOUT_S
        while missing:
            with self.entered():
                table = Path("/proc/thread-self/net/ipv6_route").read_text()
            # destination, its length, source, its length, gateway, metric, references, uses, flags, interface
            routes = (line.split() for line in table.splitlines())
            missing -= {fields[0] for fields in routes if int(fields[8], 16) & _RTF_LOCAL}
            if missing:
                if time.monotonic() > deadline:
                    raise LabError(f"{self.name}: no route to its own IPv6 address {min(missing)}")
                time.sleep(0.001)  # the kernel sends no notification

    def entered(self) -> AbstractContextManager[None]:
        """Move this thread into the node for the block."""
        return self.namespace.entered()

    def socket(
        self, kind: socket.SocketKind = socket.SOCK_STREAM, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        """Return a socket in the node. The caller closes it."""
        with self.entered():
            return socket.socket(family, kind)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the node. `options` are those of `subprocess.Popen`."""
        self._used = True
        with self.entered():
            process = subprocess.Popen(command, **options)
        self._processes.append(process)
        return process

    def fork(
        self,
        function: forked.Function | None,
        arguments: Sequence[str],
        stderr: IO[bytes],
        confined: Plan | None = None,
    ) -> forked.ForkedProcess:
        """Run a Python function or a command in the node, as a process with pipes; see `lab.process.forked`."""
        self._used = True
        process = forked.start(function, arguments, self.namespace, stderr, confined)
        self._processes.append(process)
        return process

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout: float | None = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node until it exits, with `stdin` as its input, and return its text output.

        Text is UTF-8; other bytes become escapes such as \\xff. Background processes of the command run until the lab
        ends.

        Raises `LabError` with the command's error output if it fails and `check` is set, `subprocess.TimeoutExpired`
        after `timeout` seconds.
        """
        # Files instead of pipes: a pipe stays open while a background process of the command holds it.
        with tempfile.TemporaryFile(dir="/run") as out, tempfile.TemporaryFile(dir="/run") as errors:
            source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
            process = self.popen(command, stdin=source, stdout=out, stderr=errors)
            try:
                process.communicate(None if stdin is None else stdin.encode(), timeout)
            finally:
                if process.poll() is None:
                    leftovers.kill([process.pid, *leftovers.started_by([process.pid])])
                self.release(process)
            done = subprocess.CompletedProcess(command, process.returncode, _text(out), _text(errors))
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    @property
    def pids(self) -> set[int]:
        """The processes that were started here and not released."""
        return {process.pid for process in self._processes}

    @property
    def inode(self) -> int:
        """The inode of the network namespace."""
        return os.fstat(self.namespace.fd).st_ino

    def present(self) -> frozenset[int]:
        """Return the ids of all processes in the node."""
        return frozenset(leftovers.inside({self.inode})) if self._used else frozenset()

    def release(self, process: Process) -> None:
        """Wait until a process that was started here exits, and close its streams. Idempotent."""
        if isinstance(process, forked.ForkedProcess):
            process.end_namespace()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if process in self._processes:
            self._processes.remove(process)

    def attach(self, helper: Helper) -> None:
        """Add a helper process to the node, which ends it."""
        self._helpers.append(helper)

    def check(self) -> None:
        """Raise `LabError` if a helper process has exited."""
        for helper in self._helpers:
            helper.check()

    def end_helpers(self) -> None:
        """End the helper processes."""
        for helper in self._helpers:
            helper.close()
        self._helpers.clear()

    def close(self) -> None:
        """Release the processes, which have exited, and the namespace."""
        for process in list(self._processes):
            self.release(process)
        self.namespace.close()


def close_all(nodes: Iterable[Node]) -> None:
    """Kill all processes in the nodes and release the nodes. Raises `LabError` for a process that does not exit."""
    closing = list(nodes)
    for node in closing:
        node.end_helpers()
    started = set().union(*(node.pids for node in closing))
    # These first: a process that has joined another namespace is found only while its parent runs.
    leftovers.kill(started | leftovers.started_by(started).keys())
    try:
        inodes = {node.inode for node in closing}
        while left := leftovers.inside(inodes):
            leftovers.kill(left)
    finally:
        for node in closing:
            node.close()


def _text(file: IO[bytes]) -> str:
    """Return the content of the file, with newlines as line ends."""
    file.seek(0)
    return file.read().decode(errors="backslashreplace").replace("\r\n", "\n")
