"""HTTP responses of an edge, and requests through proxies."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from punchlab.punch.cli import main
from punchlab.punch.edge.http import Access, parse_networks
from punchlab.punch.edge.probing.responder import StunAddresses
from punchlab.punch.edge.relay import RelayOffer
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from tests.punch.edges import JOINED, Running, closing_reason, received, registered, registration, run, running
from tests.punch.probe.ports import fresh_ports
from tests.punch.processes import CODE
from tests.punch.recorder import Command

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(address: Endpoint, path: str, source: str = "127.0.0.1") -> tuple[int, str, str]:
    """Return status, content type and body."""
    client = http.client.HTTPConnection(*address, timeout=10, source_address=(source, 0))
    try:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        client.close()


async def ask(edge: Running, path: str, source: str = "127.0.0.1") -> tuple[int, str, str]:
    return await asyncio.to_thread(get, edge.address, path, source)


async def scrape(edge: Running) -> Samples:
    status, kind, body = await ask(edge, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(body))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"punch_edge_{name}", tuple(sorted(labels.items()))), 0)


def test_healthz_is_ok() -> None:
    async def test() -> None:
        async with running() as edge:
            assert (await ask(edge, "/healthz"))[::2] == (200, "ok\n")

    run(test)


def test_metrics_count_registrations_and_pairs() -> None:
    async def test() -> None:
        async with running() as edge:
            idle = await scrape(edge)
            assert value(idle, "clients") == value(idle, "paired_total", via="local") == 0
            async with registered(edge, "sender") as sender, registered(edge, "receiver") as receiver:
                for client in (sender, receiver):
                    assert (await received(client))["type"] == "peer"
                async with connect(str(edge.url), proxy=None) as offender:
                    await offender.send("nonsense")
                    await closing_reason(offender)
                busy = await scrape(edge)
            assert value(busy, "clients") == 2
            assert value(busy, "sessions") == 1
            assert value(busy, "connections") >= 3
            assert value(busy, "registrations_total", role="sender") == 1
            assert value(busy, "registrations_total", role="receiver") == 1
            assert value(busy, "paired_total", via="local") == 1
            assert value(busy, "rejected_total", kind="frame") == 1
            await edge.log.wait_for("client_gone", count=2)
            after = await scrape(edge)
            assert value(after, "clients") == value(after, "sessions") == 0

    run(test)


def test_metrics_count_the_messages_of_the_mesh() -> None:
    async def test() -> None:
        async with running("e1") as near, running("e2", join=[near.url]) as far:
            await far.log.wait_for("joined")
            await near.log.wait_for("joined")
            async with registered(near, "receiver") as receiver, registered(far, "sender"):
                assert (await received(receiver))["via"] == "bus"
                samples = await scrape(near)
            assert value(samples, "links") == 1
            assert value(samples, "bus_sent_total", type="waiting") == 1
            assert value(samples, "bus_received_total", type="answer") == 1
            assert value(samples, "paired_total", via="bus") == 1

    run(test)


def test_metrics_have_no_session_or_address_and_events_no_private_address() -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "sender", "k7x2mq"), registered(edge, "receiver", "k7x2mq"):
            _, _, body = await ask(edge, "/metrics")
            assert "k7x2mq" not in body
            assert "127.0.0" not in body.replace("127.0.0.0/8", "")
            assert "192.168" not in body
            log = str(edge.log.events)
            assert "192.168" not in log
            assert f"{ord('s'):064x}" not in log

    run(test)


def test_metrics_are_limited_to_the_networks_of_the_operator() -> None:
    async def test() -> None:
        access = Access(metrics=parse_networks(["127.0.0.5"], field="metrics-to"))
        async with running(settings=Settings(access=access)) as edge:
            assert (await ask(edge, "/metrics", "127.0.0.5"))[0] == 200
            assert (await ask(edge, "/metrics", "127.0.0.6"))[0] == 403

    run(test)


def test_a_draining_edge_keeps_waiting_clients_and_rejects_new_ones() -> None:
    async def test() -> None:
        async with running(settings=Settings(drain_s=20)) as edge, registered(edge, "sender") as waiting:
            edge.stop.set()
            await edge.log.wait_for("draining", clients=1)
            assert (await ask(edge, "/healthz"))[::2] == (503, "draining\n")
            with pytest.raises(InvalidStatus, match="503"):
                await connect(str(edge.url), proxy=None)
            assert waiting.close_code is None
        # The edge stops when its last client has left, before the 20 s are over.

    run(test)


@pytest.mark.parametrize(
    "field", ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "X-Real-IP: 192.0.2.1", "via: 1.1 proxy"]
)
def test_a_request_through_a_proxy_is_rejected(field: str) -> None:
    name, _, content = field.partition(": ")

    async def test() -> None:
        async with running() as edge:
            with pytest.raises(InvalidStatus) as caught:
                await connect(str(edge.url), proxy=None, additional_headers={name: content})
            response = caught.value.response
            assert response.status_code == 403
            assert b"a proxy" in (response.body or b"")
            event = await edge.log.wait_for("rejected", kind="proxy")
            assert "hides the client's address" in event["reason"]
            assert "192.0.2.1" not in event["reason"]
            assert value(await scrape(edge), "rejected_total", kind="proxy") == 1
            assert (await ask(edge, "/healthz"))[0] == 200

    run(test)


@pytest.mark.parametrize("path", ["/", "/sighting", "/mesh", "/probe", "/relay"])
@pytest.mark.parametrize("origin", ["https://example.org", "null", ""])
def test_no_browser_gets_a_websocket(path: str, origin: str) -> None:
    async def test() -> None:
        settings = Settings(access=JOINED, relay=RelayOffer(EdgeUrl("127.0.0.1", 7000)))
        stun = StunAddresses(("127.0.0.1",), fresh_ports())
        async with running(settings=settings, stun=stun) as edge:
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{edge.url}{path}", proxy=None, additional_headers={"Origin": origin})
            response = caught.value.response
            assert (response.status_code, b"browser" in (response.body or b"")) == (403, True)
            await edge.log.wait_for("rejected", kind="origin")

    run(test)


def test_a_client_reports_why_the_edge_rejects_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Command("edge", "--listen", "127.0.0.1:0", "--max-connections-per-address", "1") as edge:
        address = edge.wait_for("listening")["address"]
        ip, _, port = address.partition(":")
        held = http.client.HTTPConnection(ip, int(port), timeout=10)
        held.connect()
        assert main(["receive", CODE, "--yes", "--edge", f"ws://{address}", "--bind", "127.0.0.1:0"]) == 2
        held.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "it refuses: too many connections from 127.0.0.1 (at most 1)" in line


def test_only_allowed_networks_may_join_the_mesh() -> None:
    async def test() -> None:
        async with running(settings=Settings()) as edge:
            with pytest.raises(InvalidStatus, match="403"):
                await connect(f"{edge.url}/mesh", proxy=None)
            await edge.log.wait_for("rejected", kind="mesh")
            async with registered(edge, "sender"):
                pass

    run(test)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mesh-from", "everywhere"], "mesh-from: 'everywhere'"),
        (["--metrics-to", "10.0.0.1/8"], "metrics-to: '10.0.0.1/8'"),
        (["--max-connections", "0"], "max-connections: '0'"),
        (["--max-connections", "999999999"], "max-connections: '999999999' cannot be used; expected at most "),
        (["--relay", "ws://192.0.2.1:22"], "relay: 'ws://192.0.2.1:22' cannot be used; expected port 80, 443, or "),
        (["--relay-lifetime", "0"], "relay-lifetime: '0'"),
        (["--connection-rate", "nan"], "connection-rate: 'nan'"),
        (["--drain", "-1"], "drain: '-1'"),
    ],
)
def test_bad_options_are_reported(options: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edge", "--listen", "127.0.0.1:0", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"punch: {expected}")


@pytest.mark.parametrize("field", ["session", "role", "pake", "private", "type"])
def test_the_log_quotes_no_invalid_field_of_a_client(field: str) -> None:
    async def test() -> None:
        async with running() as edge:
            for marked in ("Hush-hush", ["Hush-hush"], {"Hush-hush": 1}, '"Hush-hush', "Hush: Hush-hush"):
                async with connect(str(edge.url), proxy=None) as client:
                    await client.send(json.dumps({**json.loads(registration("sender")), field: marked}))
                    assert (await closing_reason(client))[0] == 1008
            assert len(edge.log.all("rejected")) == 5
            assert "Hush" not in str(edge.log.events)

    run(test)


def test_the_log_of_a_session_has_no_secret(tmp_path: Path, out: Path) -> None:
    """It has no words of the code, no key-exchange messages, no private addresses and no file names."""
    file = tmp_path / "very-private.pdf"
    file.write_bytes(b"content")
    with Command("edge", "--listen", "127.0.0.1:0", "--mesh-from", "127.0.0.1") as near:
        url = f"ws://{near.wait_for('listening')['address']}"
        with Command("edge", "--listen", "127.0.0.1:0", "--join", url) as far:
            far_url = f"ws://{far.wait_for('listening')['address']}"
            far.wait_for("joined")
            with (
                Command("send", file, "--edge", url, "--bind", "127.0.0.2:0", "--code", CODE) as sender,
                Command("receive", CODE, "--yes", "--edge", far_url, "--bind", "127.0.0.3:0", "--dir", out) as receiver,
            ):
                assert sender.finish() == receiver.finish() == 0
            far.wait_for("paired", via="bus")
            assert far.finish(terminate=True) == 0
        assert near.finish(terminate=True) == 0
    for edge in (near, far):
        log = str(edge.events)
        assert "k7x2mq" in log
        for secret in ("amber", "falcon", "tulip", "very-private"):
            assert secret not in log
        fields = {name for event in edge.events for name in event}
        assert not fields & {"pake", "private", "code", "key"}
        assert all(not isinstance(content, list | dict) for event in edge.events for content in event.values())
