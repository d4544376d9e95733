"""How Mininet's own engine runs our nodes: routes, forwarding and NAT rules applied by the node itself.

Only used under `mn --custom`; the lab builds the same graph by netlink.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from mininet.node import Node

from lab.nat import helpers
from lab.nat.rules import rules
from punch.nat.behavior import NatBehavior


class InternetNode(Node):
    """A host, router, edge or NAT of `topologies.internet`, as a Mininet node."""

    _helping: Sequence[subprocess.Popen[str]] = ()

    def config(
        self,
        routes: Sequence[tuple[str, str]] = (),
        addresses: Sequence[str] = (),
        forwarding: bool = False,
        behavior: NatBehavior | None = None,
        **parameters: object,
    ) -> dict[str, object]:
        """Mininet's configuration, then ours: (prefix, gateway) routes, extra addresses, forwarding, NAT rules."""
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
            self._helping = [helpers.start(helper, self.popen) for helper in text.helpers]
            for helper, process in zip(text.helpers, self._helping, strict=True):
                helpers.await_ready(helper, process)
        return result

    def terminate(self) -> None:
        """Mininet's end of a node, and that of the helpers of its NAT."""
        for process in self._helping:
            process.kill()
            process.communicate()
        super().terminate()

    def _run(self, *command: str, text: str | None = None) -> None:
        process = self.popen(*command, stdin=-1)
        _output, errors = process.communicate(None if text is None else text.encode())
        if process.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {errors.decode().strip()}")
