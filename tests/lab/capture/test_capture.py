"""The recorder with real kernels: two hosts on one link."""

from __future__ import annotations

import ctypes
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP

from punchlab.lab.capture import CapturePoint, Frame, Recorder, Recording, pcapng
from punchlab.lab.capture.bpf import compiled
from punchlab.lab.capture.recorder import FILTER, FULL_FILTER, UDP_FILTER
from punchlab.lab.capture.tap import Tap, await_timestamps
from punchlab.lab.errors import InputError, LabError
from punchlab.lab.kernel import namespace
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.rtnetlink import RouteSocket, hardware_address

A, B = "10.0.0.1", "10.0.0.2"


@dataclass(frozen=True)
class Wire:
    a: Namespace
    b: Namespace

    @property
    def points(self) -> list[CapturePoint]:
        return [CapturePoint(self.a, "a", "a-eth0"), CapturePoint(self.b, "b", "b-eth0")]

    def socket(self, where: Namespace, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        with where.entered():
            return socket.socket(socket.AF_INET, kind)

    def connect_and_close(self) -> None:
        """a opens and closes a connection to b: SYN, SYN-ACK, FIN, FIN."""
        with self.socket(self.b) as server, self.socket(self.a) as client:
            server.bind((B, 0))
            server.listen()
            client.connect(server.getsockname())
            accepted, _address = server.accept()
            with accepted:
                client.shutdown(socket.SHUT_WR)
                assert accepted.recv(1) == b""
                accepted.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two links between a and b, so that each node has an interface that is not captured."""
    a, b = namespace.create(2)
    with RouteSocket(a) as route_a, RouteSocket(b) as route_b:
        for number, index in enumerate((2, 3)):
            mac_a, mac_b = hardware_address(2 * index), hardware_address(2 * index + 1)
            route_a.add_veth(f"a-eth{number}", index, mac_a, (f"b-eth{number}", index, mac_b, b))
            route_a.commit()
            for route_socket, host, peer, peer_mac in ((route_a, 1, 2, mac_b), (route_b, 2, 1, mac_a)):
                route_socket.add_address(index, f"10.0.{number}.{host}/24")
                route_socket.add_neighbor(index, f"10.0.{number}.{peer}", peer_mac)
                route_socket.set_up(index)
                route_socket.commit()
    for node, name in ((a, "a"), (b, "b")):
        for number in range(2):
            settle(node, f"{name}-eth{number}")
    yield Wire(a, b)
    a.close()
    b.close()


def settle(node: Namespace, interface: str) -> None:
    """The query makes the kernel process the carrier; until then it may drop packets there."""
    with node.entered():
        subprocess.run(["ip", "link", "show", "dev", interface], check=True, capture_output=True)


def kinds(recording: Recording, interface: str) -> list[tuple[str, str]]:
    return [
        ("out" if frame.outgoing else "in", str(frame.packet[TCP].flags))
        for frame in recording.frames
        if frame.interface == interface
    ]


def test_each_interface_captures_the_packets_that_open_and_close_a_connection(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    recorder.start()
    wire.connect_and_close()
    recording = recorder.stop()
    assert kinds(recording, "a-eth0") == [("out", "S"), ("in", "SA"), ("out", "FA"), ("in", "FA")]
    assert kinds(recording, "b-eth0") == [("in", "S"), ("out", "SA"), ("in", "FA"), ("out", "FA")]
    assert {frame.node for frame in recording.frames} == {"a", "b"}
    assert recording.complete


def test_frames_are_in_the_order_of_time_and_sent_before_received(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    recorder.start()
    before = time.time_ns()
    wire.connect_and_close()
    after = time.time_ns()
    frames = recorder.stop().frames
    assert all(one.time_ns <= other.time_ns for one, other in pairwise(frames))
    assert [frame.interface for frame in frames[:4]] == ["a-eth0", "b-eth0", "b-eth0", "a-eth0"]
    assert before < frames[0].time_ns < frames[-1].time_ns < after


def test_the_capture_is_active_when_start_returns(wire: Wire) -> None:
    """The first packet after `start` is captured, with a timestamp during its transmission."""
    for _ in range(20):
        recorder = Recorder(wire.points)
        with wire.socket(wire.a, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            recorder.start()
            before = time.time_ns()
            client.connect_ex((B, 9))
            after = time.time_ns()
            frames = recorder.stop().frames
        assert str(frames[0].packet[TCP].flags) == "S"
        assert before < frames[0].time_ns < after


def test_timestamps_are_of_the_arrival_however_late_the_frame_is_read(wire: Wire) -> None:
    with wire.socket(wire.a) as client:
        tap = Tap(wire.points[0], compiled("tcp"))
        tap.listen()
        await_timestamps()
        client.setblocking(False)
        client.connect_ex((B, 9))
        after = time.time_ns()
        assert select.select([tap], [], [], 5)[0]
        frame = tap.read()
        tap.close()
    assert frame is not None
    assert frame.time_ns < after < time.time_ns()


def test_only_the_requested_interface_is_captured(wire: Wire) -> None:
    """Even while the socket is created: another interface of the node is always busy in this test."""
    stop = threading.Event()

    def chatter() -> None:
        with wire.socket(wire.a) as client:
            client.setblocking(False)
            while not stop.is_set():
                client.connect_ex(("10.0.1.2", 9))
                client.connect_ex(("10.0.1.2", 9))

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        for _ in range(20):
            recorder = Recorder(wire.points)
            recorder.start()
            wire.connect_and_close()
            recording = recorder.stop()
            assert {frame.packet[IP].src for frame in recording.frames} == {A, B}
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("expression", [FILTER, UDP_FILTER, FULL_FILTER])
def test_a_filter_is_the_program_that_scapy_compiles(expression: str) -> None:
    from scapy.arch.common import compile_filter, free_filter

    program = compile_filter(expression, linktype=1)
    instructions = ctypes.string_at(program.bf_insns, program.bf_len * 8)
    free_filter(program)
    assert compiled(expression).instructions == instructions


def test_an_expression_that_is_no_filter_is_rejected() -> None:
    with pytest.raises(LabError, match=r"capture: filter 'tcp and': .*syntax error"):
        compiled("tcp and")


def test_neither_a_lab_nor_a_capture_imports_scapy_or_the_engine_of_mininet() -> None:
    heavy = ("scapy", "mininet.node", "distutils", "matplotlib", "asyncio", "rich")
    code = "import sys, punchlab.lab.lab, punchlab.lab.trial.record, punchlab.topologies; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_default_filter_omits_data_and_full_keeps_it(wire: Wire) -> None:
    for full in (False, True):
        recorder = Recorder(wire.points, full=full)
        recorder.start()
        with wire.socket(wire.b, socket.SOCK_DGRAM) as server, wire.socket(wire.a, socket.SOCK_DGRAM) as client:
            server.bind((B, 5000))
            client.sendto(b"x" * 1400, server.getsockname())
            assert server.recv(2000)
        wire.connect_and_close()
        recording = recorder.stop()
        datagrams = [frame for frame in recording.frames if "UDP" in frame.packet]
        assert [frame.length for frame in datagrams] == ([1442, 1442] if full else [])
        assert all(frame.length == len(frame.data) for frame in datagrams)
        acknowledgments = [f for f in recording.frames if TCP in f.packet and f.packet[TCP].flags == "A"]
        assert bool(acknowledgments) is full


def test_a_recorder_can_be_used_again(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    for _ in range(2):
        recorder.start()
        wire.connect_and_close()
        assert len(recorder.stop().frames) == 8
    with pytest.raises(LabError, match="not started"):
        recorder.stop()


def test_icmp_errors_are_captured(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    recorder.start()
    with wire.socket(wire.a, socket.SOCK_DGRAM) as client:
        client.connect((B, 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    recording = recorder.stop()
    assert [(frame.interface, frame.packet[ICMP].type) for frame in recording.frames] == [("b-eth0", 3), ("a-eth0", 3)]


def test_a_full_kernel_buffer_is_reported(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst that is not read: the recording has the interfaces and the number of missing frames."""
    gate, read = threading.Event(), Tap.read

    def late(tap: Tap) -> Frame | None:
        gate.wait()
        return read(tap)

    monkeypatch.setattr(Tap, "read", late)
    recorder = Recorder(wire.points[:1], full=True)
    recorder.start()
    with wire.socket(wire.b, socket.SOCK_DGRAM) as server, wire.socket(wire.a, socket.SOCK_DGRAM) as client:
        server.bind((B, 5000))
        for _ in range(30_000):
            client.sendto(b"x" * 1000, (B, 5000))
    gate.set()
    recording = recorder.stop()
    assert not recording.complete
    assert list(recording.drops) == ["a-eth0"]
    assert recording.drops["a-eth0"] + len(recording.frames) == 30_000


def test_times_are_of_the_clock_of_the_clients_events(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    recorder.start()
    started = time.monotonic()
    wire.connect_and_close()
    middle = time.monotonic()
    wire.connect_and_close()
    ended = time.monotonic()
    recording = recorder.stop()
    times = [recording.monotonic(frame.time_ns) for frame in recording.frames]
    assert started < min(times) < middle < max(times) < ended
    early, late = recording.between(end=middle), recording.between(start=middle)
    assert early.frames + late.frames == recording.frames
    assert len(early.frames) == len(late.frames) == 8
    assert recording.between(started, middle) == early


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_missing_interface_is_a_clear_error_and_closes_all_sockets(wire: Wire) -> None:
    before = open_files()
    recorder = Recorder([*wire.points, CapturePoint(wire.b, "b", "b-eth9")])
    with pytest.raises(LabError, match=r"^capture: b, b-eth9: No such device$"):
        recorder.start()
    assert open_files() == before


def test_leaving_the_block_closes_every_socket_and_ends_the_thread(wire: Wire) -> None:
    before, threads = open_files(), threading.active_count()
    with pytest.raises(KeyError), Recorder(wire.points):
        raise KeyError
    with Recorder(wire.points) as recorder:
        recorder.stop()
    assert open_files() == before
    assert threading.active_count() == threads


def test_an_interface_that_goes_down_and_up_is_captured_again(wire: Wire) -> None:
    recorder = Recorder(wire.points)
    recorder.start()
    with wire.a.entered():
        subprocess.run(["ip", "link", "set", "a-eth0", "down"], check=True)
        subprocess.run(["ip", "link", "set", "a-eth0", "up"], check=True)
    settle(wire.a, "a-eth0")
    settle(wire.b, "b-eth0")
    wire.connect_and_close()
    assert kinds(recorder.stop(), "a-eth0") == [("out", "S"), ("in", "SA"), ("out", "FA"), ("in", "FA")]


def recorded(wire: Wire) -> Recording:
    recorder = Recorder(wire.points)
    recorder.start()
    wire.connect_and_close()
    return recorder.stop()


def test_wireshark_reads_the_file_with_names_order_direction_and_nanoseconds(wire: Wire, tmp_path: Path) -> None:
    recording = recorded(wire)
    file = tmp_path / "trial.pcapng"
    pcapng.write(file, recording)
    fields = ["frame.interface_name", "frame.time_epoch", "tcp.flags.syn", "frame.p2p_dir"]
    done = subprocess.run(
        ["tshark", "-r", file, "-T", "fields", *(word for field in fields for word in ("-e", field))],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    sent, received = "0", "1"  # tshark's p2p_dir
    assert [(name, direction) for name, _time, _syn, direction in rows] == [
        (frame.interface, sent if frame.outgoing else received) for frame in recording.frames
    ]
    assert [time for _name, time, *_ in rows] == [
        f"{frame.time_ns // 10**9}.{frame.time_ns % 10**9:09}" for frame in recording.frames
    ]
    assert [syn for *_, syn, _direction in rows] == ["1"] * 4 + ["0"] * 4


def test_interfaces_without_frames_are_described(wire: Wire, tmp_path: Path) -> None:
    recorder = Recorder([*wire.points, CapturePoint(wire.b, "b", "b-eth1")])
    recorder.start()
    wire.connect_and_close()
    file = tmp_path / "trial.pcapng"
    pcapng.write(file, recorder.stop())
    shown = subprocess.run(["capinfos", "-I", file], capture_output=True, text=True, check=True).stdout
    assert [line.split("=")[1].strip() for line in shown.splitlines() if "Name =" in line] == [
        "a-eth0",
        "b-eth0",
        "b-eth1",
    ]


def test_a_written_recording_is_read_back(wire: Wire, tmp_path: Path) -> None:
    recording = recorded(wire)
    file = tmp_path / "trial.pcapng"
    pcapng.write(file, recording)
    again = pcapng.read(file)
    assert again.frames == recording.frames
    assert again.interfaces == recording.interfaces


def test_a_recording_without_frames_is_a_valid_file(tmp_path: Path) -> None:
    file = tmp_path / "silence.pcapng"
    pcapng.write(file, Recording((), ("a-eth0",)))
    assert pcapng.read(file) == Recording((), ("a-eth0",))


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    file = tmp_path / "trial.pcapng"
    file.write_bytes(b"the one before")
    unheard_of = Frame(1, "a", "a-eth0", True, b"\0" * 60, -1)  # no packet has a negative length
    with pytest.raises(Exception, match="argument"):
        pcapng.write(file, Recording((unheard_of,), ("a-eth0",)))
    assert file.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"not a capture", b"\x0a\x0d\x0d\x0a"])
def test_a_file_that_is_no_capture_is_rejected(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trial.pcapng"
    file.write_bytes(content)
    with pytest.raises(InputError, match="pcapng"):
        pcapng.read(file)


def test_a_recording_ends_at_its_memory_limit(wire: Wire) -> None:
    recorder = Recorder(wire.points, most_bytes=1000)
    recorder.start()
    for _ in range(10):
        wire.connect_and_close()
    recording = recorder.stop()
    assert recording.excessive
    assert not recording.complete
    assert 0 < len(recording.frames) <= 4
