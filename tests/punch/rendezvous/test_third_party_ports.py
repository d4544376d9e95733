"""An edge that supplies a third party's address learns nothing about it: open and closed ports look the same.

Each port of the third party behaves differently. Neither the frames that the client sends to the edge nor their
earliest times may depend on it. (They may be late on a slow machine.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from punchlab.punch.client import relayed as relayed_module
from punchlab.punch.client.relayed import relayed
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import NoConnectionError, PunchFailedError
from punchlab.punch.net.reach import Reach
from punchlab.punch.net.sockets import PORTS
from punchlab.punch.probe import servers
from punchlab.punch.probe.patience import answer_or_silence
from punchlab.punch.punching.quota import Servers
from punchlab.punch.punching.supplied_servers import SuppliedServers
from punchlab.punch.rendezvous import reflexive
from punchlab.punch.rendezvous.reconnecting import ReconnectingRendezvous
from punchlab.punch.strategy import allocation, traits
from scenarios.hostile.abuser import Abuser, Heard, Lies
from tests.punch.edges import run, running
from tests.punch.processes import CODE
from tests.punch.recorder import Command, Recorder

DEADLINE_S = 1.0
SLACK_S = 0.3
"""The time until the edge sees the first packet of a client that has started its clock."""
BEHAVIORS = ["closed", "silent", "quiet", "closes", "speaks"]


@contextlib.contextmanager
def third_party(behavior: str, ip: str, ports: int = 1) -> Iterator[list[Endpoint]]:
    """Yield endpoints that refuse, drop the SYN, accept and send nothing, accept and close, or accept and send data."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _number in range(ports):
            sock = stack.enter_context(socket.socket())
            sock.bind((ip, 0))
            sockets.append(sock)
        found = [Endpoint.of(each.getsockname()) for each in sockets]
        if behavior != "closed":
            for each in sockets:
                each.listen(0 if behavior == "silent" else 64)
        if behavior == "silent":
            for endpoint in found:
                stack.enter_context(socket.create_connection(endpoint))
        if behavior in ("closes", "speaks"):
            for each in sockets:
                stack.enter_context(_answering(each, b"SSH-2.0-OpenSSH_9.2\r\n" * 20 if behavior == "speaks" else b""))
        yield found


@contextlib.contextmanager
def _answering(listener: socket.socket, words: bytes) -> Iterator[None]:
    ended = threading.Event()
    listener.settimeout(0.05)

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                taken, _source = listener.accept()
                with taken:
                    taken.sendall(words)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def heard_of(lies: Lies, file: Path, strategy: str, *options: str) -> list[Heard]:
    """Return the frames that the edge receives from a client to which it sends these values."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    words = ["--edge", url, "--code", CODE, "--strategy", strategy, "--deadline", str(DEADLINE_S), *options]
    with Abuser(lies, listener, lambda kind: socket.socket(socket.AF_INET, kind)) as edge:
        with Command("send", file, *words) as sender:
            assert sender.finish() == 1
            assert sender.wait_for("failed")["outcome"] in ("punch_timeout", "refused", "no_rendezvous")
        for _ in range(100):
            if edge.said("left"):
                break
            time.sleep(0.05)  # until its thread has detected the end of the connection
        return edge.heard


def between(heard: Sequence[Heard], one: str, other: str) -> float:
    """Return the time from the first event of one kind to the last of the other."""
    return max(each.at for each in heard if each.what == other) - min(each.at for each in heard if each.what == one)


@pytest.mark.parametrize(
    ("strategy", "behavior"),
    [*(("keep", each) for each in BEHAVIORS), *((each, "closed") for each in ("sync", "lowttl"))],
)
def test_a_client_leaves_its_edge_when_its_time_is_up_whatever_it_has_dialled(
    strategy: str, behavior: str, file: Path
) -> None:
    with third_party(behavior, "127.0.0.7", 2) as (public, private):
        heard = heard_of(Lies({"public": str(public), "private": [str(private)]}), file, strategy)
    assert [each.what for each in heard] == ["register", "told", "left"]
    assert between(heard, "told", "left") > DEADLINE_S - SLACK_S


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_a_client_registers_after_the_same_time_whatever_it_was_sent_to_for_stun(behavior: str, file: Path) -> None:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        own = [Endpoint.of(each.getsockname()) for each in free]
        stack.close()
        with third_party(behavior, "127.0.0.7", 2) as others:
            lies = Lies({"public": "127.0.0.8:41000", "private": []}, stun=[*own, *others], at=own)
            looked = heard_of(lies, file, "auto")
            measured = heard_of(lies, file, "birthday")
    assert between(looked, "probe", "register") > traits.LIMIT_S - SLACK_S
    assert between(measured, "probe", "register") > allocation._PATIENCE_S - SLACK_S
    assert [each.what for each in looked if each.what != "probed"] == ["probe", "register", "told", "left"]


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_a_relay_that_is_none_takes_the_same_time(behavior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed_module, "CONNECT_S", 0.5)

    async def test() -> None:
        with third_party(behavior, "127.0.0.7") as (there,):
            begun = time.monotonic()
            with pytest.raises(PunchFailedError, match=r"^no_rendezvous: relay ws://127.0.0.7"):
                async with relayed(EdgeUrl(*there), "0" * 64, "0" * 32):
                    pass
            assert time.monotonic() - begun >= 0.5

    run(test)


@pytest.mark.parametrize(
    ("ip", "port", "why"),
    [
        ("10.0.0.1", 80, "another network"),
        ("169.254.1.1", 80, "not an address of a host"),
        ("11.0.0.2", 22, "a port below 1024"),
    ],
)
def test_a_relay_that_no_edge_may_name_takes_the_same_time(
    ip: str, port: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayed_module, "CONNECT_S", 0.5)

    async def test() -> None:
        named = SuppliedServers(Reach(Endpoint("192.168.1.2", 41000), "11.0.0.1", frozenset(), ()), Servers())
        begun = time.monotonic()
        with pytest.raises(PunchFailedError, match=why):
            async with relayed(EdgeUrl(ip, port), "0" * 64, "0" * 32, named):
                pass
        assert time.monotonic() - begun >= 0.5

    run(test)


class Misled(ReconnectingRendezvous):
    """The edge supplies this as its IPv6 address."""

    told: Endpoint

    @property
    def ipv6(self) -> Endpoint:
        return self.told


@pytest.mark.parametrize("behavior", ["closed", "closes", "speaks"])
def test_an_ipv6_address_at_which_there_is_no_edge_takes_the_same_time(behavior: str) -> None:
    async def test() -> None:
        with third_party(behavior, "127.0.0.7") as (there,):
            async with running() as edge:
                rendezvous = await Misled.connect_any((edge.url,), None, Recorder())
                rendezvous.told = there  # of either family: it only matters that it is not the edge's
                try:
                    begun = time.monotonic()
                    local = Endpoint("127.0.0.9", PORTS[-1])
                    assert await reflexive.discover_reflexive_address(rendezvous, local, Servers()) is None
                    assert time.monotonic() - begun >= reflexive.TIMEOUT_S
                finally:
                    await rendezvous.close()

    run(test)


@pytest.mark.parametrize(("port", "connects"), [(22, 0), (1023, 0), (80, 1), (443, 1), (1024, 1)])
def test_an_edge_cannot_have_its_ipv6_address_at_a_port_of_other_services(
    port: int, connects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Endpoint] = []

    async def open_websocket(*_how: object, at: Endpoint, **_more: object) -> None:
        tried.append(at)
        raise NoConnectionError("not for tests")

    monkeypatch.setattr(reflexive, "open_websocket", open_websocket)

    async def test() -> None:
        async with running() as edge:
            rendezvous = await Misled.connect_any((edge.url,), None, Recorder())
            rendezvous.told = Endpoint("127.0.0.7", port)
            try:
                assert (
                    await reflexive.discover_reflexive_address(rendezvous, Endpoint("127.0.0.9", PORTS[-1]), Servers())
                    is None
                )
            finally:
                await rendezvous.close()
        assert len(tried) == connects

    run(test)


def test_nor_a_stun_server_that_an_edge_names() -> None:
    named = SuppliedServers(Reach(Endpoint("192.168.1.2", 41000), "11.0.0.1", frozenset(), ()), Servers())
    good = [Endpoint("11.0.0.2", port) for port in (443, 3478)]
    bad = [Endpoint("11.0.0.1", port) for port in (22, 3478)]
    assert servers._usable([*bad, *good], named, typed=False) == good
    assert servers._usable([*bad, *good], named, typed=True) == [*bad, *good]


@pytest.mark.parametrize("error", [ConnectionRefusedError, EOFError])
def test_what_is_refused_is_silence_for_as_long(error: type[Exception]) -> None:
    async def refused() -> int:
        raise error

    async def test() -> None:
        begun = time.monotonic()
        assert await answer_or_silence(0.2, refused()) is None
        assert time.monotonic() - begun >= 0.2

    asyncio.run(test())
