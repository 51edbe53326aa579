"""Background tasks have an owner: crashes are reported, and nothing outlives its supervisor."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path

import pytest

from shim.host.background import BackgroundTasks
from tests.source import parsed


async def crash() -> None:
    """Fail as a bug does."""
    message = "a bug"
    raise ZeroDivisionError(message)


async def test_a_result_is_returned() -> None:
    """The caller that starts work may await it; it is owned only while it runs."""
    background = BackgroundTasks()

    task = background.start(asyncio.sleep(0, 7), name="seven")
    assert background.names == ["seven"]

    assert await task == 7
    await asyncio.sleep(0)
    assert background.names == []


async def test_a_crash_is_logged_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the traceback, and on_crash is called with the exception."""
    background, received = BackgroundTasks(), asyncio.get_running_loop().create_future()

    background.start(crash(), name="watch of a", on_crash=received.set_result)

    assert isinstance(await asyncio.wait_for(received, 60), ZeroDivisionError)
    (entry,) = caplog.records
    assert entry.levelno == logging.ERROR
    assert "watch of a" in entry.message
    assert entry.exc_info is not None
    assert background.names == []


async def test_a_report_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged as well, and the event loop goes on."""
    background = BackgroundTasks()

    def fail(_: BaseException) -> None:
        message = "the second"
        raise KeyError(message)

    task = background.start(crash(), name="one", on_crash=fail)
    await asyncio.wait({task})
    await asyncio.sleep(0)

    assert [entry.exc_info[0] for entry in caplog.records if entry.exc_info] == [
        ZeroDivisionError,
        KeyError,
    ]


async def test_a_cancelled_task_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    """Neither logged nor reported."""
    background = BackgroundTasks()
    received: list[BaseException] = []
    task = background.start(asyncio.Event().wait(), name="waits", on_crash=received.append)
    await asyncio.sleep(0)

    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)

    assert received == []
    assert caplog.records == []
    assert background.names == []


async def test_closing_cancels_and_waits() -> None:
    """Each task has run its clean-up when aclose returns, and nothing can be started after it."""
    background = BackgroundTasks()
    cleaned: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    for number in range(3):
        background.start(work(number), name=f"work {number}")
    await asyncio.sleep(0)
    await background.aclose()

    assert sorted(cleaned) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="late"):
        background.start(crash(), name="late")


async def test_closing_does_not_wait_without_bound(caplog: pytest.LogCaptureFixture) -> None:
    """A task that does not end when it is cancelled is named."""
    background, released = BackgroundTasks(), asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    task = background.start(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    await background.aclose(timeout_s=0.01)

    assert "stubborn" in caplog.text
    released.set()
    await task


async def test_a_task_may_close_its_own_supervisor() -> None:
    """It does not wait for itself."""
    background = BackgroundTasks()
    other = background.start(asyncio.Event().wait(), name="other")

    await asyncio.wait_for(background.start(background.aclose(), name="closing"), 60)

    assert other.cancelled()


# -- who may start a task without one ------------------------------------------------------------

ROOT = Path(__file__).parents[2]
# Who starts tasks by itself, and what becomes of each.
OWNERS = {
    "shim/transaction/alive.py": "awaited or cancelled on the spot",
    "shim/transaction/park.py": "awaited on the spot, shielded",
    "shim/transaction/saving.py": "awaited on the spot, shielded",
    "shim/transaction/transaction.py": "awaited on the spot, shielded",
    "shim/transaction/worker.py": "awaited on the spot, shielded",
    "shim/cuda/step_mover.py": "in a task group",
    "shim/entry/cli/attached.py": "kept until done, in a program that ends with it",
    "shim/service/shims.py": "awaited on the spot, shielded",
    "shim/entry/serve.py": "awaited at the end, and in a task group",
    "shim/entry/shimbin/warmup.py": "in a task group",
    "shim/host/supervisor/client.py": "a callback logs how it ended",
    "shim/host/shielded.py": "is an owner",
    "shim/host/background.py": "is an owner",
    "shim/runsc/command_exec.py": "awaited on the spot, shielded",
    "shim/runsc/direct_exec.py": "awaited on the spot, shielded",
    "shim/runsc/run.py": "awaited on the spot, shielded",
    "shim/task/clones.py": "in a task group",
    "shim/transaction/read_ahead.py": "stopped by the restore that started it",
    "shim/transaction/beside_load.py": "ended by the restore that began it",
    "shim/transaction/pages_check.py": "stopped by the restore or the clones that started it",
    "shim/task/transactions.py": "awaited by the caller, and by a graceful stop",
    "shim/service/wait_gate.py": "cancelled on the spot",
    "shim/service/running.py": "awaited by the call that began it",
    "shim/service/server.py": "awaited on the spot",
    "shim/service/ttrpc/client.py": "fails its calls in a finally",
}


def starts_tasks(path: Path) -> bool:
    """Whether a file calls create_task or ensure_future."""
    calls = (node for node in ast.walk(parsed(path.read_text())) if isinstance(node, ast.Call))
    names = {getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls}
    return bool(names & {"create_task", "ensure_future"})


def test_background_tasks_have_an_owner() -> None:
    """They are started by a supervisor, or there is a reason why not."""
    files = {str(path.relative_to(ROOT)): path for path in (ROOT / "shim").rglob("*.py")}
    found = {name for name, path in files.items() if starts_tasks(path)}

    assert found == OWNERS.keys()
