"""What is looked up once for all who ask, and not again while a filesystem hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from shim.errors import DeadlineExceeded, Unavailable
from shim.host.background import BackgroundTasks
from shim.host.cached import Cached
from shim.host.filecalls import file_call


async def test_what_is_cached() -> None:
    """It is looked up once for all who ask; again when it is old, forgotten, or was not found."""
    calls: list[int] = []

    async def look_up() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        if len(calls) == 3:
            message = "no answer"
            raise Unavailable(message)
        return len(calls)

    background = BackgroundTasks()
    cached = Cached(look_up, 1000.0, background, failed_s=1000.0)
    assert await asyncio.gather(*(cached.get() for _ in range(3))) == [1, 1, 1]
    cached.forget()
    assert await cached.get() == 2
    cached.forget()
    with pytest.raises(Unavailable):
        await cached.get()
    cached.forget()
    with pytest.raises(Unavailable):
        await cached.get()
    assert len(calls) == 3, "what does not answer is not asked again at once"
    old = Cached(look_up, 0.0, background)
    assert await old.get() < await old.get()
    await background.aclose()


async def test_one_who_does_not_wait_ends_no_look_up() -> None:
    """A look-up that hangs is waited for by all later ones, and not made again."""
    calls: list[int] = []
    answers = asyncio.Event()

    async def look_up() -> int:
        calls.append(1)
        await answers.wait()
        return len(calls)

    background = BackgroundTasks()
    cached = Cached(look_up, 1000.0, background)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await cached.get()
    answers.set()
    assert await cached.get() == 1
    await background.aclose()


async def test_a_call_that_hangs_is_not_made_again() -> None:
    """Its error is kept until it ends: each further call would keep a thread."""
    calls: list[int] = []
    answers = threading.Event()

    async def look_up() -> int:
        def work() -> int:
            calls.append(1)
            answers.wait()
            return len(calls)

        # One of several at once, as a look-up may have.
        found = await asyncio.gather(file_call(work, doing="look", deadline_s=0.05))
        return found[0]

    background = BackgroundTasks()
    cached = Cached(look_up, 0.0, background)
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await cached.get()
    assert len(calls) == 1

    answers.set()
    async with asyncio.timeout(60):
        while len(calls) == 1:
            with contextlib.suppress(DeadlineExceeded):
                await cached.get()
            await asyncio.sleep(0)
    assert await cached.get() == 3
    await background.aclose()
