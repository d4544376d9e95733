"""What an endpoint remembers of a bus when somebody publishes more than there is room for."""

from __future__ import annotations

import pytest

from punchlab.punch.edge.bus import memory
from punchlab.punch.edge.bus.memory import Kept, Memory
from punchlab.punch.frames import Body, Gone, Message, SessionId
from tests.punch.wires import run

ROOM = 10


def message(number: int, age_s: float = 0.0) -> Kept:
    return Kept.received(Message(f"{number:016x}", SessionId(f"session{number}"), age_s, Gone(f"{number:016x}")), "e2")


def known(kept: Memory, number: int) -> bool:
    heard: list[Body] = []
    kept.subscribe(SessionId(f"session{number}"), lambda body, _age: heard.append(body))()
    return bool(heard)


def test_a_flood_of_messages_keeps_no_new_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_KEPT", ROOM)

    async def test() -> None:
        kept = Memory(lifetime_s=60)
        for number in range(3 * ROOM):
            assert kept.keep(message(number))
        assert len(list(kept)) == ROOM
        assert [number for number in range(3 * ROOM) if known(kept, number)] == list(range(2 * ROOM, 3 * ROOM))

    run(test)


def test_what_has_made_way_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a mesh with a loop in it would pass it around for ever."""
    monkeypatch.setattr(memory, "MAX_KEPT", ROOM)

    async def test() -> None:
        kept = Memory(lifetime_s=60)
        for number in range(ROOM + 1):
            assert kept.keep(message(number, age_s=30.0 - number))
        assert not kept.keep(message(0, age_s=30.0))
        assert kept.keep(message(ROOM + 1))
        assert not known(kept, 1)
        assert known(kept, ROOM)

    run(test)
