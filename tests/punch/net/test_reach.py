"""Which addresses from an edge a client connects to, and how often."""

from __future__ import annotations

import ipaddress
import json
import subprocess

import pytest

from punchlab.punch.cli import main
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.nat.birthday import PROBES
from punchlab.punch.net.interfaces import addresses
from punchlab.punch.net.reach import Reach
from punchlab.punch.punching.admission import LIMIT_REACHED, TOO_MANY_NEIGHBORS, Admission
from punchlab.punch.punching.candidates import Candidate, Kind
from punchlab.punch.punching.quota import (
    CONNECTS,
    PREDICTED_CONNECTS,
    PUNCH_ADDRESSES,
    PUNCH_CONNECTS,
    PUNCH_DATAGRAMS,
    SERVER_USES,
    SERVER_USES_ANSWERED,
    SERVERS,
    SESSION_ADDRESSES,
    SESSION_CONNECTS,
    SESSION_DATAGRAMS,
    Quota,
    Servers,
)
from punchlab.punch.punching.supplied_servers import SuppliedServers
from tests.punch.recorder import Recorder

HOME = Endpoint("192.168.1.2", 41000)
HOME6 = Endpoint("2a00:1::2", 41000)
EDGE = "11.0.0.1"
COMPUTER = frozenset({"127.0.0.1", "::1", "192.168.1.2", "2a00:1::2", "172.17.0.1", "fe80::2"})
NETWORKS = tuple(map(ipaddress.ip_network, ("192.168.1.0/24", "2a00:1::/64", "fe80::/64")))


def reach(own: Endpoint = HOME, edge: str = EDGE) -> Reach:
    return Reach(own, edge, COMPUTER, NETWORKS)


@pytest.mark.parametrize("ip", ["11.0.0.2", "8.8.8.8", "192.167.1.1", "100.128.0.1", "172.32.0.1", EDGE])
def test_a_global_address_may_be_the_peer_s(ip: str) -> None:
    assert reach().refuses_peer(Endpoint(ip, 1024)) is None


@pytest.mark.parametrize(
    "ip",
    [
        *("127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1", "224.0.0.1"),
        *("239.255.255.250", "169.254.169.254", "10.0.0.1", "172.16.0.1", "172.31.255.1", "192.168.1.3"),
        *("192.168.2.1", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
        *("198.18.0.1", "198.19.255.255", "192.88.99.1", "192.168.1.2", "172.17.0.1"),
    ],
)
def test_no_other_address_may_be_a_peer_s_or_a_server_s(ip: str) -> None:
    assert reach().refuses_peer(Endpoint(ip, 41000))
    assert reach().refuses_server(ip)


@pytest.mark.parametrize(
    "ip",
    [
        *("::", "::1", "fe80::1", "fec0::1", "ff02::1", "fd00::1", "fc00::1", "2001:db8::1", "3fff::1"),
        *("::ffff:7f00:1", "::ffff:127.0.0.1", "::ffff:0:7f00:1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
        *("2002:7f00:1::1", "2002:a00:1::1", "2001:0:1::1", "2001:20::1", "100::1", "5f00::1", "4000::1", "2a00:1::2"),
    ],
)
def test_nor_an_ipv6_one_that_is_not_global_or_carries_an_ipv4_address(ip: str) -> None:
    assert reach(HOME6).refuses_peer(Endpoint(ip, 41000))
    assert reach(HOME6).refuses_server(ip)


def test_a_global_ipv6_address_may_be_the_peer_s() -> None:
    assert reach(HOME6).refuses_peer(Endpoint("2a00:2::1", 41000)) is None


@pytest.mark.parametrize("port", [1, 22, 80, 443, 1023])
def test_no_port_of_a_service_is_dialled(port: int) -> None:
    assert reach().refuses_peer(Endpoint("11.0.0.2", port))
    assert reach().refuses_host(Endpoint("192.168.1.3", port))


@pytest.mark.parametrize(
    ("edge", "ip"),
    [
        *(("10.0.0.1", "10.9.9.9"), ("192.168.7.1", "192.168.8.1"), ("100.64.0.1", "100.65.0.1")),
        *(("198.18.0.1", "198.19.0.1"), ("203.0.113.1", "203.0.113.2"), ("10.0.0.1", "11.0.0.2")),
    ],
)
def test_an_edge_in_a_network_that_is_not_global_names_addresses_of_it(edge: str, ip: str) -> None:
    assert reach(edge=edge).refuses_peer(Endpoint(ip, 41000)) is None


@pytest.mark.parametrize(
    ("edge", "ip"),
    [
        *(("10.0.0.1", "192.168.7.1"), ("192.168.7.1", "10.0.0.1"), ("192.168.7.1", "172.16.0.1")),
        *(("10.0.0.1", "127.0.0.1"), ("10.0.0.1", "169.254.1.1"), ("203.0.113.1", "198.51.100.1")),
        *(("10.0.0.1", "192.168.1.2"), ("169.254.0.1", "169.254.0.2")),
    ],
)
def test_but_none_of_another_and_not_this_computer(edge: str, ip: str) -> None:
    assert reach(edge=edge).refuses_peer(Endpoint(ip, 41000))


def test_an_edge_of_a_private_network_may_have_a_private_ipv6_address() -> None:
    assert reach(HOME6, edge="192.168.7.1").refuses_server("fd00::1") is None


@pytest.mark.parametrize(
    ("ip", "dialled"),
    [
        *(("192.168.1.3", True), ("192.168.1.1", True), ("192.168.1.255", False), ("192.168.1.0", False)),
        *(("192.168.2.3", False), ("10.0.0.1", False), ("127.0.0.1", False), ("192.168.1.2", False)),
        *(("172.17.0.1", False), ("172.17.0.2", False), ("11.0.0.2", False), ("169.254.1.1", False)),
        *(("2a00:1::3", True), ("2a00:2::3", False), ("fe80::3", False), ("fd00::1", False), ("::1", False)),
    ],
)
def test_a_host_candidate_is_dialled_in_the_own_network_only(ip: str, dialled: bool) -> None:
    assert (reach().refuses_host(Endpoint(ip, 41000)) is None) is dialled


def test_from_the_loopback_network_only_that_is_dialled_and_not_the_own_endpoint() -> None:
    own = Endpoint("127.0.0.2", 41000)
    rules = reach(own, "127.0.0.1")
    assert rules.refuses_peer(Endpoint("127.0.0.2", 41001)) is None
    assert rules.refuses_host(Endpoint("127.0.0.3", 41000)) is None
    for each in (own, Endpoint("11.0.0.2", 41000), Endpoint("192.168.1.3", 41000), Endpoint("127.0.0.3", 22)):
        assert rules.refuses_peer(each)
        assert rules.refuses_host(each)


def test_an_edge_on_this_computer_may_name_addresses_of_it() -> None:
    assert reach(edge="192.168.1.2").refuses_peer(Endpoint("192.168.1.2", 41001)) is None
    assert reach(edge="192.168.1.2").refuses_host(Endpoint("192.168.1.2", 41001)) is None
    assert reach(edge="192.168.1.2").refuses_peer(Endpoint("127.0.0.1", 41001))


def test_the_addresses_of_this_computer_are_those_of_the_kernel() -> None:
    shown = json.loads(subprocess.run(["ip", "-j", "address"], capture_output=True, check=True).stdout)
    expected = {
        (info["local"], each["ifindex"], info["prefixlen"])
        for each in shown
        for info in each["addr_info"]
        if info["family"] in ("inet", "inet6")
    }
    assert {(each.ip, each.interface, each.network.prefixlen) for each in addresses()} == expected


def public(ip: str, port: int = 41000) -> Candidate:
    return Candidate(Endpoint(ip, port), "srflx")


def test_connects_to_one_endpoint_are_limited_per_punch() -> None:
    quota = Quota()
    assert quota.connects(public("11.0.0.2"), 3) == 3
    assert quota.connects(public("11.0.0.2"), None) == CONNECTS - 3
    assert quota.connects(public("11.0.0.2"), None) == 0
    quota.begin_punch()
    assert quota.connects(public("11.0.0.2"), 1000) == CONNECTS
    assert quota.connects(Candidate(Endpoint("11.0.0.2", 41001), "predicted"), None) == PREDICTED_CONNECTS


def test_addresses_are_limited_per_punch_and_session() -> None:
    quota, dialled = Quota(), []
    for meeting in range(5):
        quota.begin_punch()
        granted = [bool(quota.connects(public(f"11.0.{meeting}.{number}"), 1)) for number in range(10)]
        dialled.append(sum(granted))
    assert dialled == [PUNCH_ADDRESSES, SESSION_ADDRESSES - PUNCH_ADDRESSES, 0, 0, 0]
    assert quota.connects(public("11.0.0.0"), 1) == 1
    assert not quota.datagrams("11.9.9.9", 1)


def test_connects_are_limited_per_punch_and_session_for_any_ports() -> None:
    quota, sums = Quota(), []
    for _meeting in range(4):
        quota.begin_punch()
        sums.append(sum(quota.connects(public("11.0.0.2", port), None) for port in range(1024, 2024)))
    assert sums[0] == PUNCH_CONNECTS
    assert sum(sums) == SESSION_CONNECTS


def test_there_is_room_for_the_guesses_of_a_birthday_and_everything_else() -> None:
    quota = Quota()
    for kind in ("srflx", "host", "mapped"):
        assert quota.connects(Candidate(Endpoint("11.0.0.2", 41000), kind), None) == CONNECTS
    guesses = [Candidate(Endpoint("11.0.0.2", 1024 + port), "guess") for port in range(PROBES)]
    assert sum(quota.connects(each, 1) for each in guesses) == PROBES


def test_where_the_peer_has_been_found_is_not_counted_any_more() -> None:
    quota = Quota()
    for meeting in range(10 * SESSION_CONNECTS // CONNECTS):
        quota.begin_punch()
        assert quota.connects(public("11.0.0.2", 1024 + meeting % 1000), None) == CONNECTS
        quota.prove("11.0.0.2")
    for number in range(SESSION_ADDRESSES):
        quota.begin_punch()
        assert quota.connects(public(f"11.0.1.{number}"), 1) == 1
    quota.begin_punch()
    assert quota.connects(public("11.0.2.0"), 1) == 0


def test_datagrams_are_counted_too() -> None:
    quota, sent = Quota(), 0
    for _meeting in range(10):
        quota.begin_punch()
        assert not quota.datagrams("11.0.0.2", PUNCH_DATAGRAMS + 1)
        sent += PUNCH_DATAGRAMS * quota.datagrams("11.0.0.2", PUNCH_DATAGRAMS)
        assert not quota.datagrams("11.0.0.2", 1)
    assert sent == SESSION_DATAGRAMS


def neighbor(number: int, kind: Kind = "srflx") -> Candidate:
    return Candidate(Endpoint(f"2a00:1::{number:x}", 41000), kind)


@pytest.mark.parametrize("network", ["2a00:1::/64", "2a00:1::2/128"])
def test_two_endpoints_of_the_own_ipv6_network_are_used_per_punch_for_any_kind(network: str) -> None:
    log, quota = Recorder(), Quota()
    rules = Reach(HOME6, "2a00:9::1", COMPUTER, (ipaddress.ip_network(network),))
    for first in (10, 20):
        admission = Admission(quota, (reach(), rules), log)
        kinds: tuple[Kind, ...] = ("srflx", "predicted", "guess", "mapped", "prflx")
        granted = [admission.connects(neighbor(first + number, kind), 1) for number, kind in enumerate(kinds)]
        assert granted == [1, 1, 0, 0, 0]
        assert not admission.datagrams(neighbor(first + 3), 1)
        assert admission.connects(neighbor(first), 1) == 1  # the same one again
        assert admission.connects(Candidate(Endpoint("2a00:2::1", 41000), "srflx"), 1) == 1
        assert admission.connects(public("11.0.0.2"), 1) == 1
        reasons = {each["reason"] for each in log.all("candidate_refused")}
        assert reasons == {TOO_MANY_NEIGHBORS}


def test_what_is_refused_is_reported_once_and_why() -> None:
    log = Recorder()
    admission = Admission(Quota(), (reach(),), log)
    own = Candidate(Endpoint("192.168.1.2", 41001), "host")
    targets = [public("11.0.0.2"), public("10.0.0.1"), own]
    assert admission.allowed(targets) == targets[:1]
    assert [admission.connects(each, None) for each in targets * 2] == [CONNECTS, 0, 0, 0, 0, 0]
    assert [(event["address"], event["reason"]) for event in log.all("candidate_refused")] == [
        ("10.0.0.1:41000", "in another network than the edge"),
        ("192.168.1.2:41001", "an address of this computer"),
        ("11.0.0.2:41000", LIMIT_REACHED),
    ]
    admission.confirm(own.address)
    assert admission.connects(own, 1) == 1
    assert admission.connects(Candidate(own.address, "srflx"), 1) == 0


def test_other_addresses_of_an_edge_are_few_and_tried_a_few_times() -> None:
    named = SuppliedServers(reach(), Servers())
    assert named.refuses(EDGE) is None
    assert named.refuses("10.0.0.1")
    used = [ip for ip in (f"11.1.0.{number}" for number in range(10)) if named.refuses(ip) is None]
    assert len(used) == SERVERS
    assert [named.refuses(used[0]) is None for _ in range(3)] == [True] * (SERVER_USES - 1) + [False] * (
        4 - SERVER_USES
    )
    for port, allowed in ((22, False), (1023, False), (80, True), (443, True), (1024, True)):
        assert (named.refuses_at(Endpoint(EDGE, port)) is None) is allowed
    named.answered(used[1])
    assert sum(named.refuses(used[1]) is None for _ in range(1000)) == SERVER_USES_ANSWERED - 1


def test_the_help_names_the_limit_of_attempts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["send", "--help"])
    assert f"(default and maximum: {CONNECTS})" in " ".join(capsys.readouterr().out.split())
