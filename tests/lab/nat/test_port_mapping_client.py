"""The client requests a port mapping from a real miniupnpd: what a third party can reach, and how long."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT as EDGE_PORT
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.trial.trial import edge_network
from punchlab.punch.endpoint import Endpoint
from tests.lab.homes import Homes
from tests.lab.nat.world import PATIENCE_S, PORT, SILENCE_S, World, world

HOLD = """
import asyncio, sys
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PortMappingError
from punchlab.punch.portmap.lease import mapping

async def main():
    local = Endpoint.parse(sys.argv[1])
    try:
        async with mapping(local, lifetime_s=int(sys.argv[2]), patience_s=5) as held:
            print(held.external, held.protocol, sep=" by ", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
    except PortMappingError as error:
        print(error, flush=True)

asyncio.run(main())
"""


@contextlib.contextmanager
def holding(w: World, lifetime_s: int = 120) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a process that holds a mapping of a's port until it is terminated or killed; yield it and its output."""
    words = [sys.executable, "-c", HOLD, f"{w.lab['a'].address}:{PORT}", str(lifetime_s)]
    with w.lab["a"].popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().decode().strip()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("spoken", "protocols"), [("upnp-igd", {"UPnP IGD"}), ("pcp", {"PCP", "NAT-PMP"}), ("all", {"PCP", "NAT-PMP"})]
)
def test_a_mapping_admits_all_until_it_is_deleted(spoken: str, protocols: set[str]) -> None:
    ports = itertools.count(6000)
    with world("symmetric", port_mapping=spoken) as w:
        external = (w.lab["nat_a"].address, PORT)
        with holding(w) as (process, printed):
            endpoint, _by, protocol = printed.partition(" by ")
            assert endpoint == f"{external[0]}:{PORT}"
            assert protocol in protocols
            assert w.reached("stranger", next(ports), external, ["a", "a2"]) == "a"
            process.communicate(b"\n")
        assert w.reached("stranger", next(ports), external, ["a", "a2"]) is None


def test_a_mapping_is_renewed_while_held_and_expires_soon_after_its_holder_is_killed() -> None:
    ports, lifetime_s = itertools.count(6000), 4
    with world("symmetric", port_mapping="pcp") as w:
        external = (w.lab["nat_a"].address, PORT)
        with holding(w, lifetime_s) as (process, _said):
            for _lifetime in range(2):
                time.sleep(1.25 * lifetime_s)  # the time itself is tested
                assert w.reached("stranger", next(ports), external, ["a", "a2"]) == "a"
            process.kill()
            process.wait()
            killed = time.monotonic()
            while w.reached("stranger", next(ports), external, ["a", "a2"]) == "a":
                assert time.monotonic() - killed < lifetime_s + 5  # the daemon checks periodically


def test_without_port_mapping_the_reason_is_reported_for_each_protocol() -> None:
    with world("symmetric") as w, holding(w) as (_process, printed):
        gateway = "192.168.1.1:5351"
        for words in (f"PCP: {gateway} ", f"NAT-PMP: {gateway} ", "UPnP IGD: no gateway device"):
            assert words in printed


def test_a_terminated_client_deletes_its_mapping(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    ports = itertools.count(6000)
    with Lab(Homes(nat="symmetric", port_mapping="pcp")) as lab:
        edge_network(lab, PUNCH).wait()

        def reached() -> bool:
            with lab["stranger"].socket() as dialler:
                dialler.settimeout(SILENCE_S)
                dialler.bind(("", next(ports)))
                return dialler.connect_ex(external) == 0

        words = ["send", str(file), "--edge", f"ws://{lab.anycast}:{EDGE_PORT}", "--strategy", "portmap", "--json"]
        client = EventProcess(lab["a"], words, PUNCH.function)
        assert wait_for([client], lambda: client.first("registered") is not None, PATIENCE_S)
        mapped = client.first("port_mapped")
        assert mapped is not None
        external = Endpoint.parse(str(mapped["external"]))
        assert reached()
        client.end(grace_s=PATIENCE_S)  # by SIGTERM
        assert client.returncode == 128 + signal.SIGTERM
        assert not reached()
