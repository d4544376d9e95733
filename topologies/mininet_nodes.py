"""Nodes for Mininet's own engine, which apply routes, forwarding and NAT rules themselves.

Only `mn --custom` uses them; the lab builds the same graph over netlink.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mininet.node import Node

from punchlab.lab.nat import helpers, portmapping
from punchlab.lab.nat.rules import rules
from punchlab.punch.nat.behavior import NatBehavior


class InternetNode(Node):
    """A host, router, edge or NAT of `topologies.internet` as a Mininet node."""

    def __init__(self, *words: object, **parameters: object) -> None:
        self._helpers = ExitStack()
        super().__init__(*words, **parameters)

    def config(
        self,
        routes: Sequence[tuple[str, str]] = (),
        addresses: Sequence[str] = (),
        forwarding: bool = False,
        behavior: NatBehavior | None = None,
        **parameters: object,
    ) -> dict[str, object]:
        """Apply Mininet's configuration, then routes as (prefix, gateway), additional addresses, forwarding and NAT
        rules.
        """
        result: dict[str, object] = super().config(**parameters)
        ipv6 = {str(each): each.params["ip6"] for each in self.intfs.values() if each.params.get("ip6")}
        for interface, address in ipv6.items():
            self._run("ip", "address", "add", address, "dev", interface, "nodad")
        for address in addresses:
            self._run("ip", "address", "add", address, "dev", "lo")
        for destination, gateway in routes:
            self._run("ip", "route", "replace", destination, "via", gateway)
        if forwarding:
            self._run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            if ipv6:
                self._run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        if behavior is not None:
            outside, inside = (self.intfs[port] for port in sorted(self.intfs))
            text = rules(
                behavior, inside=str(inside), outside=str(outside), address=outside.IP(), ipv6=str(inside) in ipv6
            )
            self._run("iptables-restore", text=text.iptables)
            if text.ip6tables:
                self._run("ip6tables-restore", text=text.ip6tables)
            if text.nft:
                self._run("nft", "-f", "-", text=text.nft)
            for extra in text.addresses[1:]:
                self._run("ip", "address", "add", f"{extra}/32", "dev", str(outside))
            for path, value in text.sysctls.items():
                self._run("sysctl", "-qw", f"{path.replace('/', '.')}={value}")
            for program in text.helpers:
                self._start_program(program)
            if text.port_mapping:
                self._start_port_mapper(text.port_mapping)
        return result

    def terminate(self) -> None:
        """End the processes of `config`, then terminate as Mininet does."""
        self._helpers.close()
        super().terminate()

    def _start_program(self, program: helpers.Program) -> None:
        process = helpers.start(program, self.popen)
        self._helpers.callback(process.communicate)
        self._helpers.callback(process.kill)
        helpers.await_ready(program, process)

    def _start_port_mapper(self, configuration: str) -> None:
        folder = self._helpers.enter_context(tempfile.TemporaryDirectory(prefix="punchlab-", dir="/run"))
        (Path(folder) / portmapping.CONFIGURATION).write_text(configuration)
        process = self.popen(*portmapping.COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._helpers.callback(process.wait)
        self._helpers.callback(process.kill)

    def _run(self, *command: str, text: str | None = None) -> None:
        process = self.popen(*command, stdin=-1)
        _output, errors = process.communicate(None if text is None else text.encode())
        if process.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {errors.decode().strip()}")
