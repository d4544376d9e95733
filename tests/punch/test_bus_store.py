"""What an endpoint remembers of a bus when somebody publishes more than there is room for."""

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
    heard: list[Body] = []
    store.subscribe(SessionId(f"session{number}"), lambda body, _age: heard.append(body))()
    return bool(heard)


def test_a_flood_of_messages_keeps_no_new_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STORED", ROOM)

    async def test() -> None:
        store = MessageStore(lifetime_s=60)
        for number in range(3 * ROOM):
            assert store.add(message(number))
        assert len(list(store)) == ROOM
        assert [number for number in range(3 * ROOM) if known(store, number)] == list(range(2 * ROOM, 3 * ROOM))

    run(test)


def test_what_has_made_way_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a mesh with a loop in it would pass it around for ever."""
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
