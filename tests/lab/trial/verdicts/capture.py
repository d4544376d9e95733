"""A second capture of a trial, independent of the lab's: dumpcap in the nodes, and tshark to read it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from punchlab.lab.lab import Lab
from punchlab.lab.process.node import Node

_PATIENCE_S = 20.0
_MARK_PORT = 9
FIELDS = (
    "frame.interface_name",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.proto",
    "ipv6.nxt",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq",
    "tcp.ack",
    "tcp.flags",
    "tcp.len",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "icmp.type",
    "icmpv6.type",
    "frame.len",
)


class Wiretap:
    """dumpcap on every interface of the nodes. All packets of the block are in the file."""

    def __init__(self, lab: Lab, nodes: Sequence[str], folder: Path) -> None:
        self._places = [(lab[name], interface.name) for name in nodes for interface in lab[name].graph.interfaces]
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[str], Path]] = []

    def __enter__(self) -> Self:
        for node, interface in self._places:
            file = self._folder / f"{interface}.pcapng"
            process = node.popen(
                ["dumpcap", "-q", "-i", interface, "-f", "not arp", "-w", str(file)], stderr=subprocess.PIPE, text=True
            )
            self._running.append((interface, process, file))
        for _interface, process, _file in self._running:
            _await_line(process.stderr, "File: ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node, interface in self._places:
            _send_mark(node, interface)
        for interface, process, file in self._running:
            if kind is None:
                _await_bytes(file, _mark(interface))
            process.send_signal(signal.SIGINT)
        for interface, process, _file in self._running:
            _output, errors = process.communicate(timeout=_PATIENCE_S)
            dropped = re.search(r"received/dropped on interface .*: \d+/(\d+)", errors)
            if kind is None:
                assert dropped, errors
                assert dropped[1] == "0", f"{interface}: dumpcap lost packets: {errors}"

    def packets(self) -> Iterator[dict[str, str]]:
        """Yield the fields of each packet from tshark, without markers. Fields of a quoted packet are second, after
        ;.
        """
        merged = self._folder / "merged.pcapng"
        subprocess.run(["mergecap", "-w", merged, *(file for *_rest, file in self._running)], check=True)
        command = ["tshark", "-n", "-r", str(merged), "-T", "fields", "-E", "separator=/t", "-E", "aggregator=;"]
        command += ["-o", "tcp.relative_sequence_numbers:FALSE"]
        done = subprocess.run(
            [*command, *itertools.chain.from_iterable(("-e", field) for field in FIELDS)],
            check=True,
            capture_output=True,
            text=True,
        )
        for line in done.stdout.splitlines():
            packet = dict(zip(FIELDS, line.split("\t"), strict=True))
            if packet["udp.dstport"] != str(_MARK_PORT):
                yield packet


def _send_mark(node: Node, interface: str) -> None:
    """Send a datagram out of the interface: when it is in the file, all earlier packets are, too."""
    with node.socket(socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sender.sendto(_mark(interface), ("255.255.255.255", _MARK_PORT))


def _mark(interface: str) -> bytes:
    return f"the end of {interface}'s part".encode()


def _await_line(stream: IO[str] | None, start: str) -> None:
    assert stream is not None
    for line in stream:
        if line.startswith(start):
            return
    raise AssertionError(f"dumpcap did not print {start!r}")


def _await_bytes(file: Path, wanted: bytes) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while wanted not in _tail(file):
        assert time.monotonic() < deadline, f"{file.name}: the last packet never came"
        time.sleep(0.02)


def _tail(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - (1 << 16)))
        return opened.read()
