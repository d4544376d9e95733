"""Measure the memory per connection of an edge: silent connections and waiting clients, with and without TLS.

The floor, in the same run, is an asyncio server that ignores its connections.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import Attackers, enough_descriptors, memory_kib

_PER_ADDRESS = 40
_SETTLE_S = 1.0
_FLOOR = """
import asyncio, json, ssl, sys

async def main():
    tls = None
    if sys.argv[1:]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*sys.argv[1:])
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=tls)
    ip, port = server.sockets[0].getsockname()
    print(json.dumps({"address": f"{ip}:{port}"}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def compare(clients: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the KiB per connection of an edge and of the floor, by kind of connection."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder, enough_descriptors(clients):
        for name, files in (("plain", []), ("tls", _certificate(Path(folder)))):
            tls = bool(files)
            options = [word for pair in zip(("--tls-cert", "--tls-key"), files, strict=False) for word in pair]
            edge = ["-m", "punchlab.punch", "edge", "--listen", "127.0.0.1:0", "--json", *options]
            silent = _kib(edge, clients, lambda them, _number, ip: them.dial_tcp(ip), tls=tls)
            waiting = _kib(edge, clients, lambda them, number, ip: them.wait(f"s{number:06}", ip), tls=tls)
            floor = _kib(["-c", _FLOOR, *files], clients, lambda them, _number, ip: them.dial(ip), tls=tls)
            found[name] = {"silent_kib": silent, "waiting_kib": waiting, "floor_kib": floor, "ratio": waiting / floor}
            text = f"silent {silent:.1f} KiB, waiting client {waiting:.1f} KiB, asyncio alone {floor:.1f} KiB"
            tell(f"{clients} connections, {name}: {text}, ratio {waiting / floor:.2f}")
    return found


def _kib(words: Sequence[str], clients: int, hold: Callable[[Attackers, int, str], Any], *, tls: bool) -> float:
    """Return the KiB that each connection adds to the server that the command `words` starts."""
    with _running(words) as (pid, at), contextlib.ExitStack() as stack:
        them = Attackers(at, itertools.repeat("127.0.0.1"), tls=tls)
        addresses = [f"127.8.{number // 250}.{1 + number % 250}" for number in range(clients // _PER_ADDRESS + 2)]
        first = stack.enter_context(contextlib.closing(hold(them, clients, addresses.pop())))
        assert first.fileno() >= 0  # the first connection has caused all imports
        time.sleep(_SETTLE_S)
        before = memory_kib(pid)
        for number in range(clients):
            stack.enter_context(contextlib.closing(hold(them, number, addresses[number // _PER_ADDRESS])))
        time.sleep(_SETTLE_S)
        return (memory_kib(pid) - before) / clients


@contextlib.contextmanager
def _running(words: Sequence[str]) -> Iterator[tuple[int, Endpoint]]:
    """Run a server that prints its address in a separate process; yield the process id and the address."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen([sys.executable, *words], stdout=log, text=True) as process,
    ):
        try:
            while not (line := _first_line(log)):
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with exit status {process.returncode}")
                time.sleep(0.05)
            yield process.pid, Endpoint.parse(json.loads(line)["address"])
        finally:
            process.kill()


def _first_line(log: Any) -> str:
    with Path(f"/proc/self/fd/{log.fileno()}").open() as reading:
        line = reading.readline()
    return line if line.endswith("\n") else ""


def _certificate(folder: Path) -> list[str]:
    """Create a self-signed certificate and its key; return both paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")]), datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    files = [folder / "edge.pem", folder / "edge.key"]
    files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return list(map(str, files))
