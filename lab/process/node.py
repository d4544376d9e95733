"""A node of a running lab: a network namespace in which commands and sockets can be opened."""

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
    """A process that is part of a node itself."""

    def wait(self) -> None:
        """Wait until it does its work. Raises `LabError`."""

    def check(self) -> None:
        """Raise `LabError` if it does not run any more."""

    def close(self) -> None:
        """End it."""


Process = subprocess.Popen[Any] | forked.ForkedProcess


class Node:
    """One node. What is started in it is killed when the lab ends, with everything that this has started."""

    def __init__(self, graph: GraphNode, namespace: Namespace) -> None:
        self.graph, self.namespace = graph, namespace
        self._processes: list[Process] = []
        self._used = False
        self._helpers: list[Helper] = []

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} {self.address}>" if self.kind != "switch" else f"<switch {self.name}>"

    @property
    def name(self) -> str:
        """Its name in the topology."""
        return self.graph.name

    @property
    def kind(self) -> str:
        """host, router, edge, nat or switch."""
        return self.graph.kind

    @property
    def address(self) -> str:
        """The IPv4 address of its first interface."""
        return self.graph.address

    @property
    def address6(self) -> str:
        """The IPv6 address of its first interface that has one. Raises `LabError` where the topology gives none."""
        if self.graph.address6 is None:
            raise LabError(f"{self.name}: has no IPv6 address")
        return self.graph.address6

    def wait_for_ipv6(self, interfaces: Iterable[Interface]) -> None:
        """Return when what comes for the IPv6 addresses of these interfaces is taken for the node's own.

        The kernel's address worker makes their routes some time after it was given them, even where it looks for no
        duplicates; until then such packets are lost. Raises `LabError` if that takes unreasonably long.
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
                time.sleep(0.001)  # nothing tells us

    def entered(self) -> AbstractContextManager[None]:
        """This thread is inside the node for the length of the block."""
        return self.namespace.entered()

    def socket(
        self, kind: socket.SocketKind = socket.SOCK_STREAM, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        """A socket inside the node, IPv4 unless told; the caller closes it."""
        with self.entered():
            return socket.socket(family, kind)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command inside the node; `options` are those of `subprocess.Popen`."""
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
        """Run a Python function or a command inside the node, as a process with pipes; see `lab.process.forked`."""
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
        """Run a command inside the node until it ends, with `stdin` as its input, and return its text output.

        Text is UTF-8; other bytes become escapes such as \\xff. What it leaves running runs on until the lab ends.

        Raises `LabError` with the command's own words if it fails and `check` is set, `subprocess.TimeoutExpired` after
        `timeout` seconds.
        """
        # Files, for a pipe has no end as long as something that the command has started holds it.
        with tempfile.TemporaryFile(dir="/run") as out, tempfile.TemporaryFile(dir="/run") as errors:
            source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
            process = self.popen(command, stdin=source, stdout=out, stderr=errors)
            try:
                process.communicate(None if stdin is None else stdin.encode(), timeout)
            finally:
                if process.poll() is None:
                    leftovers.kill([process.pid, *leftovers.started_by([process.pid])])
                self.forget(process)
            done = subprocess.CompletedProcess(command, process.returncode, _text(out), _text(errors))
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    @property
    def pids(self) -> set[int]:
        """The processes that were started here and are not forgotten."""
        return {process.pid for process in self._processes}

    @property
    def inode(self) -> int:
        """The inode of its network namespace."""
        return os.fstat(self.namespace.fd).st_ino

    def present(self) -> frozenset[int]:
        """The process ids of everything that runs in the node."""
        return frozenset(leftovers.inside({self.inode})) if self._used else frozenset()

    def forget(self, process: Process) -> None:
        """Wait for the end of a process that was started here, and let go of its streams; idempotent."""
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
        """Make a running process part of the node, which ends it."""
        self._helpers.append(helper)

    def check(self) -> None:
        """Raise `LabError` if the node is not whole any more."""
        for helper in self._helpers:
            helper.check()

    def end_helpers(self) -> None:
        """End the processes that are part of the node."""
        for helper in self._helpers:
            helper.close()
        self._helpers.clear()

    def let_go(self) -> None:
        """Let go of the processes that were started here, which have ended, and of the namespace."""
        for process in list(self._processes):
            self.forget(process)
        self.namespace.close()


def close_all(nodes: Iterable[Node]) -> None:
    """Kill everything that runs in the nodes, and let go of them. Raises `LabError` for a process that does not end."""
    closing = list(nodes)
    for node in closing:
        node.end_helpers()
    started = set().union(*(node.pids for node in closing))
    # First, for a process that has joined another namespace is found only as long as its parent runs.
    leftovers.kill(started | leftovers.started_by(started).keys())
    try:
        inodes = {node.inode for node in closing}
        while left := leftovers.inside(inodes):
            leftovers.kill(left)
    finally:
        for node in closing:
            node.let_go()


def _text(file: IO[bytes]) -> str:
    """What was written to the file, with the line ends of text."""
    file.seek(0)
    return file.read().decode(errors="backslashreplace").replace("\r\n", "\n")
