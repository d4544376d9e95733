"""Many NATs in one lab, probed in parallel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from punchlab import Lab
from punchlab.lab.check import check
from punchlab.lab.check.claims import Found
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.punch.probe import session
from punchlab.topologies.internet import Internet

AT_A_TIME = 27
PATIENCE_S = 5.0
"""The timeout for answers: with many NATs, answers are slow."""


class Street(Internet):
    """`h0`, `h1`, … each behind its own NAT, and an edge with two addresses. No delays."""

    def build(self, nats: Sequence[NatBehavior]) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms", alternate=True)
        for number, nat in enumerate(nats):
            self.home(west, [f"h{number}"], nat, "preset")
        self.finish()


class BareStreet(Internet):
    """`h0`, `h1`, … each behind a machine `r0`, `r1`, … with two interfaces, without rules and without forwarding.

    If `nats` do not translate, the host has a public address.
    """

    def build(self, nats: Sequence[NatBehavior]) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms", alternate=True)
        for number, nat in enumerate(nats):
            router, host, subnet = f"r{number}", f"h{number}", f"11.16.{number + 1}"
            inside = "192.168.1"
            if not nat.translates:
                inside = f"11.17.{number + 1}"
                self._routes["core1"].append((f"{inside}.0/24", f"{subnet}.2"))
            self._node(router, "router", gateway=f"{subnet}.1")
            self._link(router, "core1", f"{subnet}.2/24", f"{subnet}.1/24")
            self._node(host, "host", gateway=f"{inside}.1")
            self._link(host, router, f"{inside}.2/24", f"{inside}.1/24")
        self.finish()


def probe_all(lab: Lab, hosts: Sequence[str]) -> Mapping[str, Found]:
    """Return the reports of `punch probe` for each host. Its code runs in threads, which start faster than
    processes.
    """
    for host in hosts:
        check.see_internal_sources(lab[host])
    with check.probing_edge(lab) as url, ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(hosts, pool.map(lambda host: _probe(lab, host, url), hosts), strict=True))


def _probe(lab: Lab, host: str, url: str) -> Found:
    options = session.ProbeOptions([EdgeUrl.parse(url)], PATIENCE_S, None, 1.0)
    with lab[host].entered():
        found: Found = json.loads(asyncio.run(session.run(options)).to_json())
    return found
