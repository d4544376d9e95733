"""The client asks a real miniupnpd for a port mapping: what a third party can reach then, and how long."""

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
    """The process that holds a mapping of a's port, until it is told or killed, and what it says."""
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
def test_a_mapping_lets_everybody_in_until_it_is_given_back(spoken: str, protocols: set[str]) -> None:
    ports = itertools.count(6000)
    with world("symmetric", port_mapping=spoken) as w:
        external = (w.lab["nat_a"].address, PORT)
        with holding(w) as (process, said):
            endpoint, _by, protocol = said.partition(" by ")
            assert endpoint == f"{external[0]}:{PORT}"
            assert protocol in protocols
            assert w.reached("stranger", next(ports), external, ["a", "a2"]) == "a"
            process.communicate(b"\n")
        assert w.reached("stranger", next(ports), external, ["a", "a2"]) is None


def test_a_mapping_is_renewed_while_it_is_held_and_ends_soon_after_its_holder_was_killed() -> None:
    ports, lifetime_s = itertools.count(6000), 4
    with world("symmetric", port_mapping="pcp") as w:
        external = (w.lab["nat_a"].address, PORT)
        with holding(w, lifetime_s) as (process, _said):
            for _lifetime in range(2):
                time.sleep(1.25 * lifetime_s)  # the passing of time itself is what is tested
                assert w.reached("stranger", next(ports), external, ["a", "a2"]) == "a"
            process.kill()
            process.wait()
            killed = time.monotonic()
            while w.reached("stranger", next(ports), external, ["a", "a2"]) == "a":
                assert time.monotonic() - killed < lifetime_s + 5  # the daemon looks now and then


def test_where_no_protocol_is_spoken_the_reason_is_told_for_each() -> None:
    with world("symmetric") as w, holding(w) as (_process, said):
        gateway = "192.168.1.1:5351"
        for words in (f"PCP: {gateway} ", f"NAT-PMP: {gateway} ", "UPnP IGD: no gateway device"):
            assert words in said


def test_a_client_that_is_terminated_gives_its_mapping_back(tmp_path: Path) -> None:
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
