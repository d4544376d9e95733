"""The addresses at which a Dask worker and a campaign listen, and the certificates that `tls://` requires."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, line, punchlab, run, started

HOW_TO = ROOT / "docs" / "how-to" / "several-machines.md"
DASK = str(Path(sys.executable).parent / "dask")
SETUP = """
ip link set lo up
ip link add lan type veth peer name far
ip link set lan up
ip link set far up
ip address add 10.9.9.1/24 dev lan
ip address add fd00::1/64 dev lan nodad
echo ready
exec sleep infinity
"""
CAMPAIGN = ["run", "ab", "--nat-a", "none", "--nat-b", "none", "--delay", "0ms", "--trials", "2"]


@pytest.fixture
def network() -> Iterator[list[str]]:
    """The words that start a command in a network namespace of its own, which has the addresses of `SETUP`."""
    with started("unshare", "--net", "sh", "-ec", SETUP) as holder:
        line(holder.stdout, "ready")
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]


def listeners(network: list[str]) -> set[str]:
    """Address and port of every TCP listener of a network namespace."""
    done = run([*network, "ss", "--no-header", "--listening", "--tcp", "--numeric"])
    assert done.returncode == 0, done
    return {row.split()[3] for row in done.stdout.splitlines()}


def hosts(addresses: set[str]) -> list[str]:
    return sorted(address.rpartition(":")[0] for address in addresses)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.9.9.1", "[fd00::1]"])
def test_a_worker_listens_at_one_address_and_a_campaign_at_none(tmp_path: Path, network: list[str], host: str) -> None:
    command = [*network, DASK, "scheduler", "--host", f"tcp://{host}", "--port", "0", "--no-dashboard"]
    with started(*command) as scheduler:
        address = line(scheduler.stderr, "Scheduler at:").split()[-1]
        before = listeners(network)
        assert f"tcp://{host}:" in address
        with started(*punchlab("worker", address, "--jobs", "1", under=network)) as worker:
            line(worker.stdout, f"worker of {address}")
            with_worker = listeners(network)
            assert hosts(with_worker - before) == [host]
            campaign = punchlab(*CAMPAIGN, "--out", str(tmp_path / "out"), "--dask", address, under=network)
            seen = set()
            with started(*campaign) as running:
                while running.poll() is None:
                    seen |= listeners(network)
                assert running.returncode == 0, running.communicate()
            assert seen == with_worker
            worker.terminate()
            _printed, complaints = worker.communicate(timeout=30)
    warned = f"punchlab: worker: {address}: every host that reaches this machine can run programs as this user; "
    assert complaints.startswith(warned) == (host != "127.0.0.1"), complaints


def documented_tls(folder: Path) -> list[str]:
    """Do what the how-to says to use TLS; return the words before a command that is configured so."""
    blocks = re.findall(r"```(sh|yaml)\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    (make,) = (text for kind, text in blocks if kind == "sh" and text.startswith("openssl"))
    (configuration,) = (text for kind, text in blocks if kind == "yaml")
    subprocess.run(["sh", "-ec", make], cwd=folder, check=True, capture_output=True)
    (folder / "punchlab.yaml").write_text(configuration.replace("/path/to", str(folder)))
    return ["env", f"DASK_CONFIG={folder}"]


def test_with_tls_a_worker_serves_only_who_has_a_certificate(tmp_path: Path) -> None:
    under = documented_tls(tmp_path)
    command = [*under, DASK, "scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with started(*command) as scheduler:
        address = line(scheduler.stderr, "Scheduler at:").split()[-1]
        assert address.startswith("tls://127.0.0.1:")
        with started(*punchlab("worker", address, "--jobs", "1", under=under)) as worker:
            line(worker.stdout, f"worker of {address}")
            out = ["--out", str(tmp_path / "out")]
            done = run(punchlab(*CAMPAIGN, *out, "--dask", address, under=under))
            assert done.returncode == 0, done
            sockets = run(["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"]).stdout
            (port,) = re.findall(rf"127\.0\.0\.1:(\d+) .*pid={worker.pid},", sockets)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection(("127.0.0.1", int(port)), timeout=10) as plain,
                pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
                context.wrap_socket(plain) as stranger,
            ):
                stranger.recv(1)
