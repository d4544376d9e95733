"""A host requests a mapping from its NAT with every protocol, and a third party connects through it, with sockets
only.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from punchlab import Lab, LabError, MissingCapabilityError
from punchlab.lab.check import check
from punchlab.lab.nat import presets
from punchlab.lab.nat.script import script
from punchlab.punch.nat.behavior import (
    BehaviorError,
    FilteringBehavior,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    PortMapping,
)
from punchlab.topologies import Home
from punchlab.topologies.internet import Internet
from tests.commands import assert_one_clear_line, punchlab, run
from tests.lab.homes import Homes
from tests.lab.nat.askers import GATEWAY, Asker, Natpmpc, Pcp, Rejected, Upnpc, exchange
from tests.lab.nat.world import PORT, SILENCE_S, World, world

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
TRANSPORTS = pytest.mark.parametrize("transport", KINDS)
ASKERS = pytest.mark.parametrize("asker", [Upnpc(), Natpmpc(), Pcp()], ids=["upnp-igd", "nat-pmp", "pcp"])
EXTERNAL = 42000
LEASE_S = 600
SEARCH = (
    b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)
"""UPnP's discovery request."""
ADDRESS = bytes(2)
"""NAT-PMP's request for the external address."""


def reached(w: World, target: tuple[str, int], ports: itertools.count[int]) -> str | None:
    """Return which inside host a stranger reaches from an unused port."""
    return w.reached("stranger", next(ports), target, ["a", "a2"])


@TRANSPORTS
@ASKERS
@pytest.mark.parametrize("nat", ["symmetric", "port_restricted_cone"])
def test_a_mapped_port_is_reachable_for_all_until_the_mapping_is_deleted(
    nat: str, asker: Asker, transport: str
) -> None:
    ports = itertools.count(6000)
    with world(nat, KINDS[transport], port_mapping="all") as w:
        target = (w.lab["nat_a"].address, EXTERNAL)
        assert reached(w, target, ports) is None
        assert asker.ask(w.lab, "a2", transport, PORT, EXTERNAL, LEASE_S) == target
        assert reached(w, target, ports) == "a2"
        asker.remove(w.lab, "a2", transport, PORT, EXTERNAL)
        assert reached(w, target, ports) is None


@pytest.mark.parametrize("event", ["reboot", "change_address"])
def test_mappings_are_lost_with_the_state_and_can_be_requested_again(event: str) -> None:
    ports = itertools.count(6000)
    with world("symmetric", port_mapping="all") as w:
        Pcp().ask(w.lab, "a", "tcp", PORT, EXTERNAL, LEASE_S)
        getattr(w.lab.nat("a"), event)()
        target = (w.lab.nat("a").address, EXTERNAL)
        assert reached(w, target, ports) is None
        assert Upnpc().ask(w.lab, "a", "tcp", PORT, EXTERNAL, LEASE_S) == target
        assert reached(w, target, ports) == "a"


def test_a_host_finds_its_gateway_by_upnp_discovery() -> None:
    with world("symmetric", port_mapping="upnp-igd") as w:
        target = Upnpc(found=True).ask(w.lab, "a", "tcp", PORT, EXTERNAL, LEASE_S)
        assert reached(w, target, itertools.count(6000)) == "a"


@pytest.mark.parametrize(("kept", "removed"), [("tcp", "udp"), ("udp", "tcp")])
@ASKERS
def test_deleting_the_mapping_of_one_transport_keeps_the_other(asker: Asker, kept: str, removed: str) -> None:
    ports = itertools.count(6000)
    with world("symmetric", KINDS[kept], port_mapping="all") as w:
        for transport in ("tcp", "udp"):
            target = asker.ask(w.lab, "a", transport, PORT, EXTERNAL, LEASE_S)
        asker.remove(w.lab, "a", removed, PORT, EXTERNAL)
        assert reached(w, target, ports) == "a"


@TRANSPORTS
def test_answers_use_the_mapping_and_the_source_is_preserved(transport: str) -> None:
    with world("symmetric", KINDS[transport], port_mapping="all") as w:
        target = Pcp().ask(w.lab, "a", transport, PORT, EXTERNAL, LEASE_S)
        listener, dialler = w.listening("a", PORT), w.bound("stranger", 6000)
        dialler.connect(target)
        dialler.send(b"question")
        if transport == "tcp":
            answering, seen = listener.accept()
            w.stack.enter_context(answering)
            assert answering.recv(100) == b"question"
            answering.send(b"answer")
        else:
            question, seen = listener.recvfrom(100)
            assert question == b"question"
            listener.sendto(b"answer", seen)
        assert seen == (w.lab["stranger"].address, 6000)
        assert dialler.recv(100) == b"answer"  # a connected socket receives only the target's answer


@TRANSPORTS
def test_an_explicit_mapping_takes_precedence_over_an_implicit_one(transport: str) -> None:
    ports = itertools.count(6000)
    with world("full_cone", KINDS[transport], port_mapping="pcp") as w:
        target = w.mapped("a2", "server", 5000)
        assert reached(w, target, ports) == "a2"
        assert Pcp().ask(w.lab, "a", transport, PORT, target[1], LEASE_S) == target
        assert reached(w, target, ports) == "a"


@ASKERS
def test_a_mapping_expires_with_its_lease(asker: Asker) -> None:
    ports = itertools.count(6000)
    lease_s = 2
    with world("symmetric", socket.SOCK_DGRAM, port_mapping="all") as w:
        asked = time.monotonic()
        target = asker.ask(w.lab, "a", "udp", PORT, EXTERNAL, lease_s)
        assert reached(w, target, ports) == "a"
        while reached(w, target, ports) == "a":
            assert time.monotonic() - asked < lease_s + 5
        assert time.monotonic() - asked > lease_s - 1  # the daemon counts whole seconds


@pytest.mark.parametrize(
    ("port_mapping", "answers"),
    [
        ("none", []),
        ("upnp-igd", ["upnp-igd"]),
        ("pcp", ["nat-pmp"]),
        ("all", ["upnp-igd", "nat-pmp"]),
    ],
)
def test_a_nat_answers_its_own_protocols_and_only_inside(port_mapping: str, answers: list[str]) -> None:
    questions = {"upnp-igd": ("239.255.255.250", 1900, SEARCH), "nat-pmp": (GATEWAY, 5351, ADDRESS)}
    with Lab(Homes(nat="symmetric", port_mapping=port_mapping)) as lab:
        for protocol, (address, port, question) in questions.items():
            expected = protocol in answers
            answer = exchange(lab, "a", address, port, question, *([] if expected else [SILENCE_S]))
            assert (answer is not None) is expected
            assert exchange(lab, "stranger", lab["nat_a"].address, port, question, SILENCE_S) is None


def test_mappings_for_another_host_or_below_1024_are_rejected() -> None:
    with Lab(Homes(nat="symmetric", port_mapping="all")) as lab:
        with pytest.raises(Rejected):
            Upnpc().ask(lab, "a", "tcp", PORT, 1023, LEASE_S)
        words = ["upnpc", "-u", f"http://{GATEWAY}:5000/rootDesc.xml", "-a", lab["a2"].address, "41000", "42000", "TCP"]
        assert "is redirected to" not in lab["a"].run(words, check=False).stdout


def test_behind_another_nat_requests_are_rejected_as_by_real_devices() -> None:
    class Inner(Internet):
        """A home whose NAT has no public address."""

        pairs = (("a", "server"),)

        def build(self) -> None:
            self.begin("10.0.0.0/8")
            west = self.region("west")
            self.edge(west, delay="0ms")
            self.home(west, ["a"], "symmetric", "drop", "all")
            self.finish()

    with Lab(Inner()) as lab:
        for asker in (Upnpc(), Natpmpc(), Pcp()):
            with pytest.raises(Rejected):
                asker.ask(lab, "a", "tcp", PORT, EXTERNAL, LEASE_S)


def test_a_nat_with_port_mapping_otherwise_has_its_claimed_behavior() -> None:
    nats = {name: presets.behavior(name, port_mapping="all") for name in presets.CLASSICS[1:]}
    checks = check.run(
        nats, lambda nat: Home(nat=nat or "none"), "a", jobs=len(nats), progress=lambda _done, _total: None
    )
    assert {name: [row for row in checked.rows if not row.agrees] for name, checked in checks.items()} == {
        name: [] for name in nats
    }


def lab_without_its_daemon() -> None:
    with Lab(Homes(nat="symmetric", port_mapping="pcp")) as lab:
        listening = lab["nat_a"].run(["ss", "-Hlnup", "sport = :5351"]).stdout
        (number,) = (int(found) for found in re.findall(r"pid=(\d+)", listening))
        process = os.pidfd_open(number)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [])
        os.close(process)


def test_a_daemon_that_exits_early_is_a_lab_error_with_its_output() -> None:
    with pytest.raises(LabError, match=r"nat_a: miniupnpd exited with status -9: .*PCP"):
        lab_without_its_daemon()


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        ("using netfilter(nftables) backend", LabError, "nat_a: miniupnpd exited with status 7: no good"),
        (
            "using netfilter(iptables) backend",
            MissingCapabilityError,
            "miniupnpd: installed without nftables support; run `apt-get install miniupnpd-nftables`",
        ),
        (None, MissingCapabilityError, "miniupnpd: not installed; run `apt-get install miniupnpd-nftables`"),
    ],
)
def test_a_missing_wrong_or_failing_daemon_is_a_one_line_error(
    version: str | None, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("iptables-restore", "nft", "sh"):
        (tmp_path / needed).symlink_to(str(shutil.which(needed)))
    if version is not None:
        fake = tmp_path / "miniupnpd"
        fake.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\necho no good >&2\nexit 7\n'
        )
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error) as caught, Lab(Homes(nat="symmetric", port_mapping="all")):
        pass
    assert str(caught.value) == words


def test_a_firewall_cannot_have_port_mapping() -> None:
    with pytest.raises(BehaviorError, match="port_mapping: pcp has no effect with translates False"):
        NatBehavior(
            MappingBehavior.ENDPOINT_INDEPENDENT,
            FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
            PortAllocation.PRESERVING,
            translates=False,
            port_mapping=PortMapping.PCP,
        )


def test_nat_show_names_the_helper_process() -> None:
    done = run(punchlab("nat", "show", "symmetric", "--port-mapping", "all"))
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert ["port_mapping", "all", "by a helper process: miniupnpd"] in lines


def test_the_script_of_a_nat_names_the_helper_process_and_configures_it() -> None:
    behavior = presets.behavior("symmetric", port_mapping="all")
    assert behavior is not None
    text = script("symmetric", behavior, inside="lan0", outside="wan0", address="11.9.9.9")
    assert "helper process" in text
    for line in ("ext_ifname=wan0", "ext_ip=11.9.9.9", "listening_ip=lan0"):
        assert f"#   {line}\n" in text
    plain = script(
        "symmetric", replace(behavior, port_mapping=PortMapping.NONE), inside="l", outside="w", address="11.9.9.9"
    )
    assert "miniupnpd" not in plain


def test_trial_and_run_accept_port_mapping_and_reject_invalid_values() -> None:
    assert_one_clear_line(
        run(punchlab("up", "ab", "--port-mapping", "bonjour")), "port_mapping", "'bonjour'", "upnp-igd"
    )
    done = run(
        punchlab("up", "ab", "--nat-b", "none", "--port-mapping", "all", "--", "on", "a", "natpmpc", "-g", GATEWAY)
    )
    assert done.returncode == 0, done
    assert "Public IP address : 11.16.1.2" in done.stdout
