from __future__ import annotations

import socket

import pytest

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError


def test_an_endpoint_reads_back_as_itself() -> None:
    assert Endpoint.parse("192.0.2.1:41000") == ("192.0.2.1", 41000)
    assert str(Endpoint("192.0.2.1", 41000)) == "192.0.2.1:41000"
    assert Endpoint.parse("[2001:db8::1]:41000") == ("2001:db8::1", 41000)
    assert str(Endpoint("2001:db8::1", 41000)) == "[2001:db8::1]:41000"


def test_a_socket_can_be_bound_to_an_endpoint() -> None:
    for text in ("127.0.0.1:0", "[::1]:0"):
        endpoint = Endpoint.parse(text, any_port=True)
        with socket.socket(endpoint.family) as sock:
            sock.bind(endpoint)
            assert Endpoint.of(sock.getsockname()).ip == endpoint.ip
        assert endpoint.is_loopback


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "192.0.2.1", "192.0.2.1:", ":80", "192.0.2:80", "192.0.2.01:80", "host:80", "[192.0.2.1]:80"),
        *("192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:٣", "192.0.2.1:80 ", "192.0.2.1:1e3"),
        *("2001:db8::1:80", "[2001:db8::1]", "[2001:db8::1]80", "[2001:db8::1", "[]:80", "[2001:db8::1]:0", "[::1]:+1"),
        *("[2001:DB8::1]:80", "[2001:db8:0::1]:80", "[2001:db8::0.0.0.1]:80", "[fe80::1%eth0]:80"),  # not canonical
        *("[::ffff:192.0.2.1]:80", "[::ffff:c000:201]:80"),  # IPv4-mapped
    ],
)
def test_invalid_endpoints_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^bind: "):
        Endpoint.parse(text, field="bind")


def test_port_zero_needs_any_port() -> None:
    assert Endpoint.parse("127.0.0.1:0", any_port=True).port == 0


@pytest.mark.parametrize("ip", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"])
def test_addresses_that_are_not_unicast(ip: str) -> None:
    assert not Endpoint(ip, 80).is_unicast


@pytest.mark.parametrize("text", ["ws://192.0.2.1:8765", "ws://edge.example.org:80/", "wss://[2001:db8::1]:7001/"])
def test_edge_urls(text: str) -> None:
    assert str(EdgeUrl.parse(text)) == text.rstrip("/")


def test_the_host_of_an_ipv6_edge_url_has_no_brackets() -> None:
    assert EdgeUrl.parse("ws://[2001:db8::1]:7001").host == "2001:db8::1"


@pytest.mark.parametrize(
    "text",
    [
        *("", "192.0.2.1:80", "ws://", "ws://host", "ws://host:0", "ws://host:65536", "http://host:80", "ws://-:80"),
        *("ws://host:80/mesh", "ws://user@host:80", "ws://ho st:80", "ws://host:80\n", "wss://host", "wsss://host:80"),
        *("ws://2001:db8::1:80", "ws://[2001:db8::1]", "ws://[2001:DB8::1]:80", "ws://[::ffff:192.0.2.1]:80"),
        *("ws://[fe80::1%eth0]:80", "ws://[192.0.2.1]:80", "ws://[:]:80"),
        *("ws://a..b:80", "ws://a.-b:80", f"ws://{'a' * 64}:80"),  # the resolver would raise UnicodeError
    ],
)
def test_invalid_edge_urls_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^edge: .*ws://HOST:PORT"):
        EdgeUrl.parse(text)
