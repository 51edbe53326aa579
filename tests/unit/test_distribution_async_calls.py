"""Awaiting from threads: results and errors come back, and nothing outlives the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shim.distribution.async_calls import AsyncCalls
from shim.errors import Cancelled, DeadlineExceeded

LONG_S = 60.0
# Shorter than what `close` waits for.
SHORT_S = 0.3


@pytest.fixture
def calls() -> Iterator[AsyncCalls]:
    """Yield some, which end after the test."""
    made = AsyncCalls("test")
    yield made
    made.close()


class Work:
    """Work that waits to be cancelled."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def run(self) -> None:
        """Wait."""
        self.begun.set()
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def _raise(error: Exception) -> None:
    raise error


async def _ident() -> int:
    return threading.get_ident()


def test_results_and_errors_come_back(calls: AsyncCalls) -> None:
    """All calls run in one thread, which is not the caller's."""
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: calls.call(_ident, LONG_S, "ask"), range(8)))

    assert len(found) == 1
    assert threading.get_ident() not in found
    with pytest.raises(KeyError):
        calls.call(lambda: _raise(KeyError("x")), LONG_S, "fail")
    with pytest.raises(TimeoutError):
        calls.call(lambda: _raise(TimeoutError()), LONG_S, "fail")


def test_a_call_ends_at_its_deadline(calls: AsyncCalls) -> None:
    """What it did is cancelled."""
    work = Work()

    with pytest.raises(DeadlineExceeded, match="cannot wait in 0 s"):
        calls.call(work.run, 0.05, "wait")

    assert work.cancelled.wait(LONG_S)


def test_close_cancels_what_is_under_way() -> None:
    """In all threads; later calls are refused."""
    calls, works = AsyncCalls("test"), [Work(), Work()]
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(calls.call, work.run, LONG_S, "wait") for work in works]
        for work in works:
            work.begun.wait(LONG_S)

        calls.close()

        for future in futures:
            with pytest.raises(Cancelled, match="cancelled: wait"):
                future.result(LONG_S)
    assert all(work.cancelled.is_set() for work in works)
    with pytest.raises(Cancelled):
        calls.call(_ident, LONG_S, "ask")
    calls.close()


def test_close_lets_work_end_that_notices() -> None:
    """It may clean up: an upload is aborted rather than left."""
    calls, begun = AsyncCalls("test"), threading.Event()

    async def cleans_up() -> str:
        begun.set()
        await asyncio.sleep(SHORT_S)
        return "clean"

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(calls.call, cleans_up, LONG_S, "work")
        begun.wait(LONG_S)
        calls.close()

        assert future.result(LONG_S) == "clean"


def test_close_without_a_call_does_nothing() -> None:
    """There is no thread to end."""
    calls = AsyncCalls("never")

    calls.close()

    assert "never" not in {thread.name for thread in threading.enumerate()}
