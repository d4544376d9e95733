"""The memory that an edge may use, the resulting number of connections, and the bound with TLS.

The limit is that of the control group, as systemd sets it for the unit in docs/running-an-edge.md. The last test runs
an edge in its own control group if this process may create one, and otherwise measures its memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from punchlab.punch.cli import main
from punchlab.punch.edge import memory
from punchlab.punch.edge.memory import MIB, bound_bytes, most_connections, usable_bytes
from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import Attackers, enough_descriptors, memory_kib, ws_frame
from tests.punch.certificates import Authority
from tests.punch.processes import CODE
from tests.punch.recorder import Command

UNIT_BYTES = 768 * MIB
ADDRESSES = int(os.environ.get("PUNCH_EDGE_ADDRESSES", "5"))
"""The number of attacking addresses, with 100 connections each; the complete test uses 25."""
PAIRS = int(os.environ.get("PUNCH_EDGE_PAIRS", "2"))
"""The number of honest pairs during the attack."""
_CGROUPS = Path("/sys/fs/cgroup")


def files(root: Path, **contents: str) -> None:
    for name, text in contents.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/system.slice/edge.service", {"system.slice/edge.service/memory.max": "805306368"}, 768 * MIB),
        ("0::/a/b", {"a/memory.max": "1048576", "a/b/memory.max": "max"}, MIB),
        ("0::/a/b", {"a/b/memory.high": "1048576", "a/b/memory.max": "2097152"}, MIB),
        ("0::/", {"memory.max": "1048576"}, MIB),
        ("5:cpu:/\n4:memory,x:/a\n0::/", {"memory/a/memory.limit_in_bytes": "1048576"}, MIB),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, 1500 * MIB),
        ("0::/elsewhere", {}, 1500 * MIB),
    ],
)
def test_the_memory_limit_of_the_control_group_is_detected(
    tmp_path: Path, membership: str, limits: dict[str, str], expected: int
) -> None:
    files(tmp_path / "proc", self__cgroup=f"{membership}\n", meminfo=f"MemTotal: {2000 * 1024} kB\n")
    files(tmp_path / "cgroup", **limits)
    assert usable_bytes(tmp_path / "proc", tmp_path / "cgroup") == expected


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("relays", [True, False])
def test_the_number_of_connections_fits_into_memory(tls: bool, relays: bool) -> None:
    most = most_connections(UNIT_BYTES, tls=tls, relays=relays)
    assert bound_bytes(most, tls=tls, relays=relays) <= UNIT_BYTES < bound_bytes(most + 1, tls=tls, relays=relays)
    assert most_connections(MIB, tls=tls, relays=relays) == 0


def test_more_connections_than_fit_into_memory_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "usable_bytes", lambda: UNIT_BYTES)
    assert main(["edge", "--listen", "127.0.0.1:0", "--max-connections", "10000"]) == 2
    most = most_connections(UNIT_BYTES, tls=False, relays=False)
    expected = f"punch: max-connections: '10000' cannot be used; expected at most {most}, which need up to 768 MiB"
    assert capsys.readouterr().err.startswith(expected)
    monkeypatch.setattr(memory, "usable_bytes", lambda: 64 * MIB)
    assert main(["edge", "--listen", "127.0.0.1:0"]) == 2
    assert capsys.readouterr().err.startswith("punch: memory: '64 MiB' cannot be used; expected at least 129 MiB")


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path | None]:
    """Yield a control group with that memory limit; None if this process cannot create one."""
    for root, name in ((_CGROUPS / "memory", "memory.limit_in_bytes"), (_CGROUPS, "memory.max")):
        group = root / f"punch-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def killed_for_memory(group: Path) -> int:
    events = group / ("memory.events" if (group / "memory.events").exists() else "memory.oom_control")
    found = re.search(r"^oom_kill (\d+)$", events.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def send_file(url: str, number: int, folder: Path) -> None:
    """Send a file between two honest clients, over TLS."""
    file, out = folder / f"file{number}", folder / f"out{number}"
    file.write_bytes(os.urandom(10_000))
    out.mkdir()
    with Command("send", file, "--edge", url, "--bind", "127.0.0.2:0", "--code", CODE) as sender:
        sender.wait_for("code")
        with Command("receive", CODE, "--yes", "--edge", url, "--bind", "127.0.0.3:0", "--dir", out) as receiver:
            assert (sender.finish(), receiver.finish()) == (0, 0), (sender.events, receiver.events)
    assert (out / file.name).read_bytes() == file.read_bytes()


def answers(sock: socket.socket) -> bool:
    """Answer a ping; return whether the connection is still open."""
    with contextlib.suppress(OSError):
        frame = sock.recv(4096)
        if frame[:1] == b"\x89":
            sock.sendall(ws_frame(frame[2 : 2 + frame[1]], 10))
            return True
    return False


class UnderAttack(threading.Thread):
    """From each address, 50 clients wait and answer pings, and 50 connections send nothing.

    They are open when the context is entered. Connections that the edge closes are opened again until it is left.
    """

    def __init__(self, edge: Endpoint) -> None:
        super().__init__()
        self._them = Attackers(edge, iter(()), tls=True)
        self._over = threading.Event()
        self._held: dict[int, tuple[socket.socket, str, int | None]] = {}  # by descriptor: socket, address, client
        self._poll = select.poll()
        self._missing: list[tuple[str, int | None]] = []
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        try:
            for number in (*range(50), *[None] * 50):
                for address in range(1, ADDRESSES + 1):
                    self._hold(f"127.9.0.{address}", number)
        except BaseException:
            self._close()
            raise
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.join()
        self._close()

    def check(self) -> None:
        """Raise the errors of the attack."""
        assert self._errors == []
        assert len(self._held) >= 90 * ADDRESSES

    def run(self) -> None:
        try:
            while not self._over.is_set():
                for descriptor, events in self._poll.poll(100):
                    sock, ip, number = self._held[descriptor]
                    if events == select.POLLIN and number is not None and answers(sock):
                        continue
                    del self._held[descriptor]
                    self._poll.unregister(descriptor)
                    sock.close()
                    self._missing.append((ip, number))
                missing, self._missing = self._missing, []
                for ip, number in missing:
                    try:
                        self._hold(ip, number)
                    except (OSError, AssertionError):  # rejected while closed connections still count
                        self._missing.append((ip, number))
        except BaseException as error:
            self._errors.append(error)

    def _hold(self, ip: str, number: int | None) -> None:
        session = f"s{ip.rpartition('.')[2]}x{number}"
        sock = self._them.dial_tcp(ip) if number is None else self._them.wait(session, ip)
        self._held[sock.fileno()] = sock, ip, number
        self._poll.register(sock, select.POLLIN | select.POLLRDHUP)

    def _close(self) -> None:
        for sock, _, _ in self._held.values():
            sock.close()


def test_the_memory_bound_holds_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    certificate, key = authority.issue("127.0.0.1")
    tls: list[str | Path] = ["--tls-cert", certificate, "--tls-key", key]
    with (
        control_group(UNIT_BYTES) as group,
        enough_descriptors(100 * ADDRESSES),
        Command("edge", "--listen", "127.0.0.1:0", *tls, within=group) as edge,
    ):
        at = Endpoint.parse(edge.wait_for("listening")["address"])
        with UnderAttack(at) as attack:
            for number in range(PAIRS):
                send_file(f"wss://{at}", number, tmp_path)
            attack.check()
        used = memory_kib(edge.process.pid, "VmHWM") * 1024
        assert used < bound_bytes(100 * ADDRESSES, tls=True, relays=False)
        assert edge.process.poll() is None
        if group is not None:
            assert killed_for_memory(group) == 0
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []
