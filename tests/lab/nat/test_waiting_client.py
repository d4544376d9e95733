"""A client waits for its peer with a mapped port while its NAT loses its state or its address."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT as EDGE_PORT
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.events.nat import RunningNat
from punchlab.lab.trial.trial import edge_network
from punchlab.punch.portmap.lease import RENEWAL_S
from punchlab.topologies.internet import Internet
from tests.lab.nat.test_port_mapping_client import holding
from tests.lab.nat.world import world

CODE = "k7x2mq-amber-falcon-tulip"
PATIENCE_S = 30.0
"""A lost edge is detected within eight seconds; then `auto` examines the NAT again."""


class OneMaps(Internet):
    """Two homes behind symmetric NATs; only that of `a` supports port mapping."""

    pairs = (("a", "b"),)

    def build(self) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west)
        self.home(west, ["a"], "symmetric", "drop", "pcp", delay="5ms")
        self.home(west, ["b"], "symmetric", "drop", delay="5ms")
        self.finish()


@pytest.mark.parametrize("strategy", ["portmap", "auto"])
@pytest.mark.parametrize("event", [RunningNat.reboot, RunningNat.change_address])
def test_a_waiting_sender_requests_its_mapping_again_and_the_peer_connects(
    tmp_path: Path, strategy: str, event: Callable[[RunningNat], object]
) -> None:
    file, inbox = tmp_path / "file", tmp_path / "in"
    file.write_bytes(content := secrets.token_bytes(1000))
    inbox.mkdir()
    with Lab(OneMaps()) as lab:
        edge_network(lab, PUNCH).wait()
        common = ["--edge", f"ws://{lab.anycast}:{EDGE_PORT}", "--strategy", strategy, "--json"]
        sender = EventProcess(lab["a"], ["send", str(file), "--code", CODE, *common], PUNCH.function)

        def registered(count: int) -> bool:
            return len([each for each in sender.events if each["event"] == "registered"]) == count

        assert wait_for([sender], lambda: registered(1), PATIENCE_S)
        event(lab.nat("a"))
        assert wait_for([sender], lambda: registered(2), PATIENCE_S)
        receiver = EventProcess(lab["b"], ["receive", CODE, "--yes", "--dir", str(inbox), *common], PUNCH.function)
        assert wait_for([sender, receiver], lambda: not sender.open and not receiver.open, PATIENCE_S)
        for each in (sender, receiver):
            each.end(grace_s=PATIENCE_S)
            assert each.returncode == 0, [sender.events, receiver.events]
        mapped = [str(each["external"]).split(":")[0] for each in sender.events if each["event"] == "port_mapped"]
        assert len(mapped) == 2
        assert mapped[1] == lab.nat("a").address
    assert (inbox / "file").read_bytes() == content


def test_a_mapping_lost_by_a_reboot_is_restored_within_seconds() -> None:
    ports = itertools.count(6000)
    with world("symmetric", port_mapping="pcp") as w, holding(w) as (_process, printed):
        external = (w.lab["nat_a"].address, int(printed.split()[0].rpartition(":")[2]))

        def await_mapping(patience_s: float) -> None:
            ends = time.monotonic() + patience_s
            while w.reached("stranger", next(ports), external, ["a"]) is None:
                assert time.monotonic() < ends

        await_mapping(RENEWAL_S / 2)  # an attempt by a busy machine may take longer than the silence
        w.lab.nat("a").reboot()
        assert w.reached("stranger", next(ports), external, ["a"]) is None
        await_mapping(2 * RENEWAL_S)
