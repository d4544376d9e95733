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
from tests.documents import blocks, commands

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


def test_with_tls_as_described_a_worker_serves_only_holders_of_a_certificate(tmp_path: Path) -> None:
    (configuration,) = (block.text for block in blocks(HOW_TO) if block.language == "yaml")
    (tmp_path / "punchlab.yaml").write_text(configuration.replace("/path/to", str(tmp_path)))
    (tmp_path / "sweep.toml").write_text('topology = "ab"\nnat_a = "none"\nnat_b = "none"\ntrials = 2\n')
    configured = ["env", f"DASK_CONFIG={tmp_path}"]
    make, *rest = list(commands(HOW_TO))[3:]
    subprocess.run(["sh", "-ec", make], cwd=tmp_path, check=True, capture_output=True)
    _dask, *scheduler_words = rest[0].replace("192.0.2.1", "127.0.0.1").replace("8787", "0").split()
    with started(*configured, DASK, *scheduler_words, "--port", "0") as scheduler:
        address = line(scheduler.stderr, "Scheduler at:").split()[-1]
        assert address.startswith("tls://127.0.0.1:")
        worker_words, run_words = (words.replace("tls://192.0.2.1:8786", address).split()[1:] for words in rest[1:])
        with started(*punchlab(*worker_words, under=configured)) as worker:
            line(worker.stdout, f"worker of {address}")
            done = run(punchlab(*run_words, under=configured), cwd=tmp_path)
            assert "2 trials, 0 disagree with the oracle, 0 lab errors" in done.stdout, done
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
            without = run(punchlab(*run_words, "--out", str(tmp_path / "other")), cwd=tmp_path)
            assert (without.returncode, without.stdout) == (1, ""), without
            assert not (tmp_path / "other").exists()
