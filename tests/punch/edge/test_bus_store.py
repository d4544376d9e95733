"""The message store of an endpoint when more messages are published than fit."""

from __future__ import annotations

import pytest

from punchlab.punch.edge.bus import store as module
from punchlab.punch.edge.bus.store import MessageStore, StoredMessage
from punchlab.punch.frames import Body, Gone, Message, SessionId
from tests.punch.wires import run

ROOM = 10


def message(number: int, age_s: float = 0.0) -> StoredMessage:
    return StoredMessage.received(
        Message(f"{number:016x}", SessionId(f"session{number}"), age_s, Gone(f"{number:016x}")), "e2"
    )


def known(store: MessageStore, number: int) -> bool:
    received: list[Body] = []
    store.subscribe(SessionId(f"session{number}"), lambda body, _age: received.append(body))()
    return bool(received)


def test_a_flood_of_messages_does_not_block_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STORED", ROOM)

    async def test() -> None:
        store = MessageStore(lifetime_s=60)
        for number in range(3 * ROOM):
            assert store.add(message(number))
        assert len(list(store)) == ROOM
        assert [number for number in range(3 * ROOM) if known(store, number)] == list(range(2 * ROOM, 3 * ROOM))

    run(test)


def test_a_replaced_message_is_not_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a mesh with a loop would forward it forever."""
    monkeypatch.setattr(module, "MAX_STORED", ROOM)

    async def test() -> None:
        store = MessageStore(lifetime_s=60)
        for number in range(ROOM + 1):
            assert store.add(message(number, age_s=30.0 - number))
        assert not store.add(message(0, age_s=30.0))
        assert store.add(message(ROOM + 1))
        assert not known(store, 1)
        assert known(store, ROOM)

    run(test)
