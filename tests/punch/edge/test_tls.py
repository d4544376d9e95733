"""An edge with a certificate, and clients that verify it."""

from __future__ import annotations

import contextlib
import http.client
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.cli import main
from punchlab.punch.edge.listener import FIRST_BYTE_S
from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import drain, trusting_anybody
from tests.punch.certificates import Authority
from tests.punch.hostile import attackers
from tests.punch.processes import CODE
from tests.punch.recorder import Command


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextlib.contextmanager
def tls_edge(files: tuple[Path, Path], *options: str) -> Iterator[tuple[Command, str]]:
    certificate, key = files
    with Command(
        *("edge", "--listen", "127.0.0.1:0", "--name", "e1"), "--tls-cert", certificate, "--tls-key", key, *options
    ) as edge:
        yield edge, f"wss://{edge.wait_for('listening')['address']}"
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []


@pytest.mark.parametrize("strategy", ["reuse", "keep"])
def test_a_file_is_sent_through_an_edge_with_tls(
    authority: Authority, file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    options = ["--strategy", strategy]
    with (
        tls_edge(authority.issue("127.0.0.1")) as (edge, url),
        Command("send", file, "--edge", url, "--bind", "127.0.0.2:0", "--code", CODE, *options) as sender,
        Command("receive", CODE, "--yes", "--edge", url, "--bind", "127.0.0.3:0", "--dir", out, *options) as receiver,
    ):
        assert sender.finish() == 0
        assert receiver.finish() == 0
        registered = sender.wait_for("registered")
        assert registered["public"] == registered["local"]
        edge.wait_for("paired")
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_edges_join_over_tls(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    files = authority.issue("127.0.0.1")
    with tls_edge(files, "--mesh-from", "127.0.0.1") as (near, url), tls_edge(files, "--join", url) as (far, _):
        near.wait_for("joined")
        far.wait_for("joined", peer="e1")


def refused(url: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["receive", CODE, "--yes", "--edge", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    with tls_edge(authority.issue("127.0.0.1")) as (_, url):
        assert "certificate is not trusted (unable to get local issuer certificate)" in refused(url, capsys)


def test_a_certificate_for_another_address_is_not_trusted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with tls_edge(authority.issue("127.0.0.9")) as (_, url):
        assert "certificate is not trusted (IP address mismatch" in refused(url, capsys)


def test_a_tls_mismatch_between_client_and_edge_is_reported(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    with Command("edge", "--listen", "127.0.0.1:0") as edge:
        url = f"wss://{edge.wait_for('listening')['address']}"
        assert "cannot be reached: closed by the other end" in refused(url, capsys)
    with tls_edge(authority.issue("127.0.0.1")) as (_, url):
        assert "cannot be reached: " in refused(url.replace("wss", "ws"), capsys)


def test_clients_without_tls_are_counted_and_released(authority: Authority) -> None:
    with tls_edge(authority.issue("127.0.0.1")) as (_, url):
        address = Endpoint.parse(url.removeprefix("wss://"))
        attackers(address).assault([b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"", b"\x00" * 1000] * 10)
        trusting = ssl.create_default_context(cafile=authority.path)
        client = http.client.HTTPSConnection(*address, context=trusting, timeout=30)
        client.request("GET", "/metrics")
        assert "punch_edge_connections 1.0\n" in client.getresponse().read().decode()
        client.close()


def hello(length: int) -> bytes:
    """Return the beginning of a record with a ClientHello that announces `size` bytes."""
    return b"\x16\x03\x01\x20\x00\x01" + length.to_bytes(3) + b"\x03\x03" + bytes(32)


@pytest.mark.parametrize(
    ("sent", "closed_at_once"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (hello(100_000), True),
        (hello(2_000), False),
        (b"\x16\x03", False),
    ],
    ids=["HTTP", "a huge client_hello", "a usual one, in part", "two bytes"],
)
def test_an_unusual_client_hello_is_closed_before_tls(authority: Authority, sent: bytes, closed_at_once: bool) -> None:
    with (
        tls_edge(authority.issue("127.0.0.1")) as (_, url),
        attackers(Endpoint.parse(url.removeprefix("wss://"))).dial_tcp() as sock,
    ):
        sock.sendall(sent)
        begun = time.monotonic()
        drain(sock)
        assert (time.monotonic() - begun < FIRST_BYTE_S / 2) is closed_at_once


def test_tls_1_2_is_not_supported(authority: Authority) -> None:
    with tls_edge(authority.issue("127.0.0.1")) as (_, url):
        old = trusting_anybody()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        edge = attackers(Endpoint.parse(url.removeprefix("wss://")))
        with edge.dial_tcp() as sock, pytest.raises(ssl.SSLError):
            old.wrap_socket(sock)
        with edge.dial_tcp() as sock, trusting_anybody().wrap_socket(sock) as spoken:
            assert spoken.version() == "TLSv1.3"


def served(url: str, authority: Authority) -> str:
    host, _, port = url.removeprefix("wss://").partition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.path))


def test_sighup_loads_a_renewed_certificate_but_no_broken_one(authority: Authority) -> None:
    files = authority.issue("127.0.0.1")
    with tls_edge(files) as (edge, url):
        old = served(url, authority)
        authority.issue("127.0.0.1")
        edge.process.send_signal(signal.SIGHUP)
        edge.wait_for("reloaded")
        new = served(url, authority)
        assert new == files[0].read_text() != old
        files[0].write_text("nonsense")
        edge.process.send_signal(signal.SIGHUP)
        assert "tls-cert" in edge.wait_for("reload_failed")["reason"]
        assert served(url, authority) == new


@pytest.mark.parametrize(
    ("certificate", "key", "expected"),
    [
        ("edge.pem", None, "tls-key: missing"),
        (None, "edge.key", "tls-cert: missing"),
        ("missing.pem", "edge.key", "tls-cert: "),
        ("edge.pem", "missing.key", "tls-key: "),
        ("edge.key", "edge.pem", "tls-cert: "),
        ("edge.pem", "other.key", "tls-cert: "),
    ],
)
def test_an_invalid_certificate_or_key_is_an_argument_error(
    authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    certificate: str | None,
    key: str | None,
    expected: str,
) -> None:
    authority.issue("127.0.0.1")
    authority.issue("127.0.0.1", "other")
    options = [*(["--tls-cert", str(tmp_path / certificate)] if certificate else [])]
    options += [*(["--tls-key", str(tmp_path / key)] if key else [])]
    assert main(["edge", "--listen", "127.0.0.1:0", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"punch: {expected}")
