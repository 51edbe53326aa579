"""Calls into filesystems that may hang: the loop goes on, and the caller gets an error."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from shim.client import calls
from shim.errors import DeadlineExceeded, NotFound, Unavailable
from shim.host import filecalls
from shim.host.filecalls import file_call
from shim.image import images
from tests.hung import hung_mount


async def test_the_result_comes_from_another_thread() -> None:
    """The work runs beside the loop, and its result is returned."""
    assert await file_call(threading.get_ident, doing="look") != threading.get_ident()


async def test_a_thread_takes_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """To start a thread costs more than most calls do."""
    monkeypatch.setattr(filecalls, "_idle", [])
    first = await file_call(threading.get_ident, doing="look")

    assert [await file_call(threading.get_ident, doing="look") for _ in range(3)] == [first] * 3


async def test_a_thread_that_hangs_takes_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call has another one, and the first is there again once its call has ended."""
    monkeypatch.setattr(filecalls, "_idle", [])
    may_end = threading.Event()
    with pytest.raises(DeadlineExceeded):
        await file_call(may_end.wait, doing="look", deadline_s=0.01)

    assert await file_call(lambda: 7, doing="look") == 7
    (other,) = filecalls._idle
    may_end.set()
    async with asyncio.timeout(60):
        while filecalls._idle == [other]:  # noqa: ASYNC110 - the end of a call
            await asyncio.sleep(0.005)


async def test_few_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many calls at once do not leave as many threads behind."""
    idle: list[filecalls._Thread] = []
    monkeypatch.setattr(filecalls, "_idle", idle)
    together = threading.Barrier(40)
    calls = (file_call(together.wait, doing="look") for _ in range(40))
    before = threading.active_count()

    await asyncio.gather(*calls)

    async with asyncio.timeout(60):
        while threading.active_count() > before + filecalls._IDLE_MAX:  # noqa: ASYNC110 - their end
            await asyncio.sleep(0.005)
    assert len(idle) == filecalls._IDLE_MAX


async def test_an_error_is_raised_as_it_is() -> None:
    """What the work raises, the caller gets; a TimeoutError of its own too."""

    def fails() -> None:
        raise NotFound("no image")

    def late() -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(NotFound, match="no image"):
        await file_call(fails, doing="look")
    with pytest.raises(TimeoutError, match="the work's own"):
        await file_call(late, doing="look")


async def test_a_filesystem_that_does_not_answer(tmp_path: Path) -> None:
    """The error names the call; the loop and other calls go on."""
    with hung_mount(tmp_path / "hung") as mount:
        with pytest.raises(DeadlineExceeded, match=r"cannot look at .*: the filesystem did not"):
            await file_call(
                (mount.path / "image").exists,
                doing=f"look at {mount.path}",
                deadline_s=0.2,
            )
        assert await file_call(tmp_path.exists, doing="look")


async def test_calls_that_hang_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many hang, the next is refused at once; those that end make room."""
    monkeypatch.setattr(filecalls, "_HUNG_MAX", 1)
    monkeypatch.setattr(filecalls, "_hung", set())  # not those of other tests
    may_end = threading.Event()
    try:
        with pytest.raises(DeadlineExceeded):
            await file_call(may_end.wait, doing="look", deadline_s=0.01)
        with pytest.raises(Unavailable, match="1 filesystem calls are hung"):
            await file_call(may_end.wait, doing="look")
    finally:
        may_end.set()
    async with asyncio.timeout(60):
        while filecalls._count_hung():  # noqa: ASYNC110 - the end of a thread
            await asyncio.sleep(0.005)
    assert await file_call(lambda: 7, doing="look") == 7


async def leave_a_call(may_end: threading.Event) -> None:
    """Cancel the caller of a file call that has begun, and goes on until `may_end` is set."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()

    caller = asyncio.create_task(file_call(work, doing="look"))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_cancelled_caller_leaves_the_thread_to_itself() -> None:
    """A cancellation returns at once and does not wait for a call that may hang."""
    may_end = threading.Event()
    await leave_a_call(may_end)
    may_end.set()


async def test_calls_whose_callers_have_left_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gives up before the call does: a thread that still hangs then counts as well."""
    monkeypatch.setattr(filecalls, "_HUNG_MAX", 1)
    monkeypatch.setattr(filecalls, "_hung", set())  # not those of other tests
    may_end = threading.Event()
    await leave_a_call(may_end)
    try:
        with pytest.raises(Unavailable, match="1 filesystem calls are hung"):
            await file_call(lambda: 7, doing="look")
    finally:
        may_end.set()
    async with asyncio.timeout(60):
        while filecalls._count_hung():  # noqa: ASYNC110 - the end of a thread
            await asyncio.sleep(0.005)
    assert await file_call(lambda: 7, doing="look") == 7


def test_a_client_gets_an_error_for_a_folder_of_images_that_hangs() -> None:
    """The list gives up before its caller does, whose error would name no filesystem."""
    assert images.LIST_S < calls.DEFAULT_TIMEOUT_S
