"""The STUN server: origin, destination and content of its responses (RFC 5389, RFC 5780)."""

from __future__ import annotations

import asyncio

import pytest

from punchlab.punch.edge.limits import Limits, RateLimiter
from punchlab.punch.edge.probing import responder
from punchlab.punch.edge.probing.responder import StunAddresses, StunServer, answer
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError
from punchlab.punch.probe.stun import Change, Message, MessageClass, decode
from punchlab.punch.probe.udpsocket import UdpSocket
from tests.punch.edges import run
from tests.punch.probe.ports import fresh_ports

PRIMARY, ALTERNATE = Endpoint("192.0.2.1", 3478), Endpoint("192.0.2.2", 3479)
BOTH = StunAddresses.of(PRIMARY, ALTERNATE)
ALONE = StunAddresses.of(PRIMARY, None)
SOURCE = Endpoint("192.0.2.9", 41000)


def ask(addresses: StunAddresses, request: Message, *, datagram: bool = True) -> tuple[Message, Endpoint, Endpoint]:
    replied = answer(request, SOURCE, PRIMARY, addresses, datagram=datagram)
    assert replied is not None
    assert replied[0].transaction == request.transaction
    return replied


def test_a_response_has_the_source_and_both_addresses() -> None:
    reply, origin, to = ask(BOTH, Message(MessageClass.REQUEST))
    assert (reply.kind, reply.mapped, reply.other) == (MessageClass.SUCCESS, SOURCE, ALTERNATE)
    assert (reply.origin, origin, to) == (PRIMARY, PRIMARY, SOURCE)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(address=True, port=True), ALTERNATE),
        (Change(address=True, port=False), Endpoint(ALTERNATE.ip, PRIMARY.port)),
        (Change(address=False, port=True), Endpoint(PRIMARY.ip, ALTERNATE.port)),
        (Change(address=False, port=False), PRIMARY),
    ],
)
def test_the_response_comes_from_the_requested_endpoint(change: Change, expected: Endpoint) -> None:
    reply, origin, to = ask(BOTH, Message(MessageClass.REQUEST, change=change))
    assert (reply.origin, origin, to) == (expected, expected, SOURCE)


def test_without_a_second_address_there_is_no_other_address_and_no_change() -> None:
    assert ask(ALONE, Message(MessageClass.REQUEST))[0].other is None
    reply, origin, _to = ask(ALONE, Message(MessageClass.REQUEST, change=Change(address=False, port=True)))
    assert (reply.kind, reply.error, reply.unknown, origin) == (
        MessageClass.ERROR,
        (420, "Unknown Attribute"),
        (0x0003,),
        PRIMARY,
    )


def test_over_tcp_there_is_no_change() -> None:
    request = Message(MessageClass.REQUEST, change=Change(address=True, port=True))
    assert ask(BOTH, request, datagram=False)[0].kind is MessageClass.ERROR


def test_a_response_may_go_to_another_port_but_to_no_other_address() -> None:
    _reply, _origin, to = ask(BOTH, Message(MessageClass.REQUEST, response_port=5000))
    assert to == (SOURCE.ip, 5000)


@pytest.mark.parametrize(
    ("source", "port"),
    [
        *((SOURCE.ip, 1023), ("198.51.100.9", 5000), ("172.17.0.1", 5000), ("127.0.0.1", 5000)),
        *(("169.254.0.1", 5000), (ALTERNATE.ip, 5000)),
    ],
)
def test_no_response_goes_to_a_well_known_port_or_into_the_edge_s_networks(source: str, port: int) -> None:
    request, at = Message(MessageClass.REQUEST, response_port=port), Endpoint(source, 41000)
    replied = answer(request, at, PRIMARY, BOTH, datagram=True)
    assert replied is not None
    assert (replied[0].kind, replied[0].unknown, replied[2]) == (MessageClass.ERROR, (0x0027,), at)


def test_an_unknown_required_attribute_is_named() -> None:
    reply, _origin, _to = ask(BOTH, Message(MessageClass.REQUEST, not_understood=(0x7777,)))
    assert (reply.kind, reply.unknown) == (MessageClass.ERROR, (0x7777,))


def test_a_request_with_a_fingerprint_gets_a_response_with_one() -> None:
    assert ask(BOTH, Message(MessageClass.REQUEST, fingerprint=True))[0].fingerprint


@pytest.mark.parametrize("kind", [MessageClass.INDICATION, MessageClass.SUCCESS, MessageClass.ERROR])
def test_only_requests_are_answered(kind: MessageClass) -> None:
    assert answer(Message(kind), SOURCE, PRIMARY, BOTH, datagram=True) is None


@pytest.mark.parametrize(
    ("primary", "alternate", "expected"),
    [
        (Endpoint("0.0.0.0", 3478), None, "stun: '0.0.0.0:3478'"),
        (Endpoint("192.0.2.1", 65535), None, "65535"),
        (PRIMARY, Endpoint("192.0.2.1", 3479), "stun-alternate: '192.0.2.1:3479'"),
        (PRIMARY, Endpoint("192.0.2.2", 3478), "stun-alternate: '192.0.2.2:3478'"),
    ],
)
def test_unsuitable_stun_addresses_are_argument_errors(
    primary: Endpoint, alternate: Endpoint | None, expected: str
) -> None:
    with pytest.raises(ArgumentError, match=expected):
        StunAddresses.of(primary, alternate)


def test_noise_and_incomplete_messages_do_no_harm() -> None:
    async def test() -> None:
        port, next_port = fresh_ports()
        server = StunServer(StunAddresses.of(Endpoint("127.0.0.1", port), None))
        await server.start()
        try:
            for noise in (b"GET / HTTP/1.0\r\n\r\n", b"\0\1", b""):
                _reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(noise)
                writer.close()
                await writer.wait_closed()
            reader, writer = await asyncio.open_connection("127.0.0.1", next_port)
            writer.write(Message(MessageClass.REQUEST).encode())
            reply = decode(await reader.read(200))
            assert reply.mapped == writer.get_extra_info("sockname")
            writer.close()
            await writer.wait_closed()
        finally:
            await server.close()

    run(test)


def test_a_taken_port_is_refused_and_nothing_stays_open() -> None:
    async def test() -> None:
        addresses = StunAddresses.of(Endpoint("127.0.0.1", fresh_ports()[0]), None)
        first = StunServer(addresses)
        with pytest.raises(ArgumentError, match=str(addresses.endpoints[0])):
            StunServer(addresses)
        await first.close()
        await StunServer(addresses).close()

    run(test)


async def asks(server: StunServer, ip: str) -> tuple[asyncio.StreamWriter, Message | None]:
    """Send a request from `ip` over a new connection; return both, or None for the response if it was closed
    instead."""
    reader, writer = await asyncio.open_connection(*server.addresses.endpoints[0], local_addr=(ip, 0))
    writer.write(Message(MessageClass.REQUEST).encode())
    try:
        data = await reader.read(200)
    except ConnectionError:
        data = b""
    return writer, decode(data) if data else None


def test_open_connections_do_not_block_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither connections that have sent a request, of which the one idle for longest is closed, nor silent ones."""
    monkeypatch.setattr(responder, "MAX_CONNECTIONS", 20)

    async def test() -> None:
        limiter = RateLimiter(Limits(edge_connections=300, stun_connections=15))
        server = StunServer(StunAddresses.of(Endpoint("127.0.0.1", fresh_ports()[0]), None), limiter)
        await server.start()
        held = []
        try:
            for ip in ("127.0.0.5", "127.0.0.6"):
                for _ in range(15):
                    writer, answered = await asks(server, ip)
                    held.append(writer)
                    assert answered is not None
            writer, answered = await asks(server, "127.0.0.6")
            held.append(writer)
            assert answered is None  # its address has reached its limit
            for number in range(280):
                ip = f"127.0.1.{number // 40}"
                held.append((await asyncio.open_connection(*server.addresses.endpoints[0], local_addr=(ip, 0)))[1])
            writer, answered = await asks(server, "127.0.0.7")
            held.append(writer)
            assert answered is not None
            assert answered.mapped == writer.get_extra_info("sockname")
        finally:
            for writer in held:
                writer.transport.abort()
            await server.close()

    run(test)


def test_requests_of_one_address_have_a_rate_limit() -> None:
    async def test() -> None:
        refused: list[str] = []
        limiter = RateLimiter(Limits(stun_rate=0.1))
        addresses = StunAddresses.of(Endpoint("127.0.0.1", fresh_ports()[0]), None)
        server = StunServer(addresses, limiter, lambda public, error: refused.append(f"{public} {error.limit}"))
        await server.start()
        try:
            async with UdpSocket.open(addresses.endpoints[0]) as client:
                assert await client.bind(addresses.endpoints[0], 5.0) is not None
                assert await client.bind(addresses.endpoints[0], 0.2) is None
                assert refused == [f"{client.local} stun_rate"]
            writer, answered = await asks(server, "127.0.0.5")
            assert answered is not None
            writer.transport.abort()
        finally:
            await server.close()

    run(test)
