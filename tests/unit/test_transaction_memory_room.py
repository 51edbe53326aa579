"""Restores at the same time begin while there is memory for all of them."""

from __future__ import annotations

import asyncio

import pytest

from shim.transaction import preflight
from shim.transaction.memory_room import MemoryRoom


class Loads:
    """Takes memory for loads that last until they are released."""

    def __init__(self) -> None:
        self.room = MemoryRoom()
        self.began: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def begin(self, number: int, needed_bytes: int) -> None:
        """Begin a load, and let it come as far as it can."""
        self._ends[number] = asyncio.Event()
        self._tasks[number] = asyncio.create_task(self._load(number, needed_bytes))
        await self._settle()

    async def end(self, number: int, *, cancel: bool = False) -> None:
        """End a load."""
        if cancel:
            self._tasks[number].cancel()
        self._ends[number].set()
        await asyncio.wait({self._tasks[number]})
        await self._settle()

    async def _load(self, number: int, needed_bytes: int) -> None:
        async with self.room.taken(needed_bytes):
            self.began.append(number)
            await self._ends[number].wait()

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Make a host with 10 bytes."""
    monkeypatch.setattr(preflight, "available_bytes", lambda *, swap: 10 * swap)
    return Loads()


async def test_a_load_waits_for_room(loads: Loads) -> None:
    """The third of three that need 4 of 10 bytes begins when one has ended."""
    for number in (1, 2, 3):
        await loads.begin(number, 4)
    assert loads.began == [1, 2]

    await loads.end(1)

    assert loads.began == [1, 2, 3]
    await loads.end(2)
    await loads.end(3)


async def test_one_alone_begins(loads: Loads) -> None:
    """One that is too large does not wait without end: its own check refuses it."""
    await loads.begin(1, 11)
    await loads.begin(2, 11)
    assert loads.began == [1]
    await loads.end(1)
    assert loads.began == [1, 2]
    await loads.end(2)


async def test_a_cancelled_load_makes_room(loads: Loads) -> None:
    """Its memory, and its place in the queue, are given back."""
    await loads.begin(1, 10)
    await loads.begin(2, 10)
    await loads.begin(3, 10)
    await loads.end(2, cancel=True)
    await loads.end(1, cancel=True)
    assert loads.began == [1, 3]
    await loads.end(3)
