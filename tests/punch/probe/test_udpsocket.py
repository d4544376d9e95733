"""Transactions over UDP: a late response still belongs to its transaction."""

from __future__ import annotations

import asyncio
import socket

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.probe import stun
from punchlab.punch.probe.stun import Message, MessageClass
from punchlab.punch.probe.udpsocket import UdpSocket


def test_a_duplicate_response_is_no_stray_but_an_indication_is() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
            async with UdpSocket.open(Endpoint(*server.getsockname())) as sock:
                binding = asyncio.create_task(sock.bind(Endpoint(*server.getsockname()), 5))
                data, source = await asyncio.get_running_loop().sock_recvfrom(server, 1500)
                request = stun.decode(data)
                answer = Message(MessageClass.SUCCESS, request.transaction, mapped=Endpoint(*source)).encode()
                server.sendto(answer, source)
                reply = await binding
                assert reply is not None
                assert reply.mapped == sock.local
                indication = Message(MessageClass.INDICATION)
                for each in (answer, indication.encode()):
                    server.sendto(each, source)
                message, _source = await asyncio.wait_for(sock.strays.get(), 5)
                assert message.transaction == indication.transaction
                assert sock.strays.empty()

    asyncio.run(test())
