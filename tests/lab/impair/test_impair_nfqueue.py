"""Specific to NFQUEUE: its engine process, its lateness, its seeds."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from punchlab.lab import impair
from punchlab.lab.errors import InputError, LabError, MissingCapabilityError
from punchlab.lab.impair import DirectedLink, Impairment, LinkEnd
from punchlab.lab.impair.enginehost import HOST
from punchlab.lab.impair.nfqueue import Nfqueue
from punchlab.lab.kernel import namespace

if TYPE_CHECKING:
    from tests.lab.impair.conftest import Wire

PARENT = """
import os, sys
from punchlab.lab import impair
from punchlab.lab.kernel import namespace
from punchlab.lab.impair.enginehost import HOST
(space,) = namespace.create(1)
end = impair.LinkEnd(space, "lo", 1)
links = [impair.DirectedLink(end, end, impair.Impairment(delay_s=0.01))]
"""
WAITING = "applied = impair.apply(links, 'nfqueue'); print(HOST.pid, flush=True); sys.stdin.read()"
FORKING = """
with impair.apply(links, 'nfqueue') as applied:
    ours = HOST.pid
    child = os.fork()
    if child == 0:
        (space,) = namespace.create(1)
        end = impair.LinkEnd(space, "lo", 1)
        with impair.apply([impair.DirectedLink(end, end, impair.Impairment(delay_s=0.01))], 'nfqueue'):
            print(HOST.pid != ours, flush=True)
        HOST.stop()
        os._exit(0)
    os.waitpid(child, 0)
    print(applied.counters()[0].packets, flush=True)
"""


@pytest.fixture
def wire(wires: Callable[..., Wire]) -> Wire:
    try:
        impair.choose("nfqueue")
    except MissingCapabilityError as error:
        pytest.skip(str(error))
    return wires("nfqueue")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def ended(pid: int, patience_s: float = 10) -> bool:
    """Return whether the process exits in time."""
    try:
        watcher = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watcher], [], [], patience_s)[0])
    finally:
        os.close(watcher)


def test_packets_are_released_on_time(wire: Wire) -> None:
    links = wire.impair(Impairment(delay_s=0.02))
    wire.send(100, gap_s=0.005)
    counters = links.counters()[0]
    assert counters is not None
    assert counters.lateness_median_s is not None
    assert counters.lateness_worst_s is not None
    assert 0 < counters.lateness_median_s < 0.001
    assert counters.lateness_median_s <= counters.lateness_worst_s


def test_the_same_seed_loses_the_same_packets(wires: Callable[..., Wire]) -> None:
    def arrived(seed: int) -> list[int]:
        wire = wires("nfqueue")
        wire.impair(Impairment(loss=0.3), seed=seed)
        return [arrival.number for arrival in wire.send(100, gap_s=0.0005)]

    assert arrived(1) == arrived(1) != arrived(2)


def test_one_engine_serves_all_labs_and_keeps_nothing_of_a_closed_one(wires: Callable[..., Wire]) -> None:
    impairment = Impairment(delay_s=0.001)
    wires("nfqueue").impair(impairment)
    engine = HOST.pid
    assert engine is not None
    wire = wires("nfqueue")
    before = descriptors(engine), descriptors(os.getpid())
    with wire.impair(impairment, impairment) as links:
        links.counters()
        assert descriptors(engine) == before[0] + 2
    assert HOST.pid == engine
    assert (descriptors(engine), descriptors(os.getpid())) == before


def test_after_an_engine_is_stopped_the_next_lab_starts_another(wire: Wire) -> None:
    wire.impair(Impairment(delay_s=0.001)).close()
    engine = HOST.pid
    assert engine is not None
    HOST.stop()
    assert not Path(f"/proc/{engine}").exists()
    assert HOST.pid is None
    wire.impair(back=Impairment(delay_s=0.001))
    assert HOST.pid not in (None, engine)


def test_an_engine_that_dies_is_a_lab_error_and_its_links_drop_all_packets(
    wire: Wire, wires: Callable[..., Wire]
) -> None:
    links = wire.impair(Impairment(delay_s=0.001))
    assert HOST.pid is not None
    os.kill(HOST.pid, signal.SIGKILL)
    assert ended(HOST.pid)
    assert wire.send(10, patience_s=0.1) == []
    with pytest.raises(LabError, match="has ended"):
        links.counters()
    with wires("nfqueue").impair(Impairment(delay_s=0.001)) as others:
        with pytest.raises(LabError, match="has ended"):
            links.close()
        assert others.counters()  # another engine, which the first lab cannot disturb
    links.close()


def test_packets_that_the_engine_could_not_read_are_counted(wire: Wire) -> None:
    links = wire.impair(Impairment(delay_s=0.001))
    assert HOST.pid is not None
    count = 150_000
    with wire.udp(wire.here) as sender:
        os.kill(HOST.pid, signal.SIGSTOP)
        try:
            for _ in range(count):
                sender.sendto(b"", ("11.0.0.2", 5000))
        finally:
            os.kill(HOST.pid, signal.SIGCONT)
    counters = links.counters()[0]
    assert counters is not None
    assert counters.packets == count
    assert counters.overflowed
    assert counters.dropped == counters.overflowed


def run(program: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", PARENT + program], stdin=pipe, stdout=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_engine_ends_with_its_parent(wire: Wire, number: signal.Signals) -> None:
    assert wire
    with run(WAITING) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        assert Path(f"/proc/{engine}").exists()
        parent.send_signal(number)
        parent.wait()
        assert ended(engine)


def test_a_forked_process_has_its_own_engine(wire: Wire) -> None:
    assert wire
    with run(FORKING) as parent:
        output, _ = parent.communicate()
    assert output.split() == ["True", "0"]
    assert parent.returncode == 0


def test_without_iptables_the_reason_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    reason = Nfqueue().why_not()
    assert reason is not None
    assert "install iptables" in reason


def test_an_unknown_implementation_is_rejected_even_without_impairment() -> None:
    with pytest.raises(InputError, match="expected one of auto, netem, nfqueue"):
        impair.apply([], "tc")


def test_a_missing_interface_is_a_lab_error(implementation: str) -> None:
    (space,) = namespace.create(1)
    host, router = LinkEnd(space, "none0", 7, "host"), LinkEnd(space, "none1", 8, "router")
    try:
        with pytest.raises(LabError, match="none0 -> none1"):
            impair.apply([DirectedLink(host, router, Impairment(delay_s=0.01))], implementation)
    finally:
        space.close()
