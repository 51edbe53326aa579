"""A caller that leaves early leaves nothing half done."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import grpc
import grpc.aio
import pytest

from shim.api.cryo.v1 import cryo_pb2, cryo_pb2_grpc
from shim.client import AsyncClient, Client
from shim.errors import Cancelled, DeadlineExceeded
from shim.model import CheckpointOptions, Phase, Progress, Report, RestoreOptions
from shim.service.server import Server
from tests.wire.conftest import Sidecar
from tests.wire.fakes import RESULT, FakeTasks


async def settle(event: asyncio.Event) -> None:
    """Wait until something has happened in the core."""
    await asyncio.wait_for(event.wait(), 60)


@pytest.mark.parametrize("what", ("checkpoint", "restore"))
async def test_cancelling_the_client_waits_for_the_rollback(
    client: AsyncClient, core: FakeTasks, what: str
) -> None:
    """The core is cancelled, and the client returns only when its rollback is over."""
    core.hold, core.rollback_s = True, 0.3
    updates: list[Progress] = []
    call = (
        client.checkpoint("a", on_progress=updates.append)
        if what == "checkpoint"
        else client.restore("a", RestoreOptions(image_path="/i"), updates.append)
    )
    task = asyncio.create_task(call)
    await settle(core.holding)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert core.rolled_back.is_set()
    assert updates[-1].phase is Phase.ROLLBACK
    assert "rolled back" in updates[-1].message


@pytest.mark.parametrize("follows", (True, False))
def test_ctrl_c_waits_for_the_rollback(
    blocking: Client, sidecar: Sidecar, *, follows: bool
) -> None:
    """Ctrl-C in the blocking client does the same and goes on as KeyboardInterrupt.

    Without a callback for progress the call has another transport.
    """
    core = sidecar.core
    core.hold, core.rollback_s = True, 0.3
    updates: list[Progress] = []

    def interrupt() -> None:
        sidecar.wait_for(core.holding)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        blocking.checkpoint("a", on_progress=updates.append if follows else None)
    thread.join()

    assert core.rolled_back.is_set()
    assert not follows or "cancelled and rolled back" in updates[-1].message


def test_an_error_in_the_callback_rolls_back(blocking: Client, sidecar: Sidecar) -> None:
    """A caller whose progress callback fails leaves no operation behind."""
    sidecar.core.hold = True

    def fail(progress: Progress) -> None:
        if progress.phase is Phase.LOCK:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        blocking.checkpoint("a", on_progress=fail)

    sidecar.wait_for(sidecar.core.rolled_back)


async def test_ending_the_call_rolls_back(server: Server, core: FakeTasks, address: str) -> None:
    """A client that vanishes in the middle of a checkpoint cancels the core."""
    core.hold = True
    async with grpc.aio.insecure_channel(address) as channel:
        call = cryo_pb2_grpc.CryoStub(channel).Checkpoint(cryo_pb2.CheckpointRequest(id="a"))
        await call.read()
        await settle(core.holding)
        call.cancel()

        await settle(core.rolled_back)


async def test_a_reader_that_stops_reading_and_leaves_rolls_back(
    server: Server, core: FakeTasks, address: str
) -> None:
    """A server whose client does not read rolls back as soon as the call ends."""
    core.hold = True
    text = Progress(phase=Phase.SAVE, message="x" * 60_000)
    held = core.work

    async def work(report: Report) -> None:
        for _ in range(200):
            report(text)
        await held(report)

    core.work = work  # type: ignore[method-assign]  # one test's own kind of progress
    async with grpc.aio.insecure_channel(address) as channel:
        call = cryo_pb2_grpc.CryoStub(channel).Checkpoint(cryo_pb2.CheckpointRequest(id="a"))
        await call.read()
        await settle(core.holding)
        call.cancel()

        await settle(core.rolled_back)


async def test_another_client_may_cancel_by_token(
    client: AsyncClient, core: FakeTasks, address: str
) -> None:
    """Cancel answers after the rollback, also when asked again; the stream ends as cancelled."""
    core.hold, core.rollback_s = True, 0.2
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cryo_pb2_grpc.CryoStub(channel)
        call = stub.Checkpoint(cryo_pb2.CheckpointRequest(id="a", operation="t"))
        await settle(core.holding)
        answer = await stub.Cancel(cryo_pb2.CancelRequest(operation="t"))
        rolled_back = core.rolled_back.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        again = await stub.Cancel(cryo_pb2.CancelRequest(operation="t"))
        other = await stub.Cancel(cryo_pb2.CancelRequest(operation="another"))

    assert rolled_back
    assert answer.outcome == cryo_pb2.CancelResponse.OUTCOME_CANCELLED
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert again.outcome == cryo_pb2.CancelResponse.OUTCOME_CANCELLED
    assert other.outcome == cryo_pb2.CancelResponse.OUTCOME_UNKNOWN


async def test_a_cancel_after_the_commit(
    client: AsyncClient, core: FakeTasks, address: str
) -> None:
    """What could not be undone any more has completed: Cancel says so, and the stream has it."""
    core.hold, core.committed = True, True
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cryo_pb2_grpc.CryoStub(channel)
        call = stub.Checkpoint(cryo_pb2.CheckpointRequest(id="a", operation="t"))
        await settle(core.holding)
        answer = await stub.Cancel(cryo_pb2.CancelRequest(operation="t"))
        updates = [update async for update in call]

    assert answer.outcome == cryo_pb2.CancelResponse.OUTCOME_COMPLETED
    assert updates[-1].result.image_path == RESULT.image_path


async def test_a_caller_who_leaves_after_the_commit(client: AsyncClient, core: FakeTasks) -> None:
    """The client says that it had completed, and not that it was rolled back."""
    core.hold, core.committed = True, True
    updates: list[str] = []

    def on_progress(progress: Progress) -> None:
        updates.append(progress.message)

    work = asyncio.create_task(client.checkpoint("a", on_progress=on_progress))
    await settle(core.holding)
    work.cancel()

    with pytest.raises(asyncio.CancelledError):
        await work
    assert updates[-1] == "checkpoint of task a: had completed before it could be cancelled"


async def test_a_token_cannot_be_used_twice_at_once(
    client: AsyncClient, core: FakeTasks, address: str
) -> None:
    """A second operation with the token of one under way is refused, and the first goes on."""
    core.hold = True
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cryo_pb2_grpc.CryoStub(channel)
        first = stub.Checkpoint(cryo_pb2.CheckpointRequest(id="a", operation="t"))
        await settle(core.holding)
        second = stub.Checkpoint(cryo_pb2.CheckpointRequest(id="b", operation="t"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(second))
        core.release.set()
        updates = [update async for update in first]

    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert updates[-1].result.image_path == RESULT.image_path


async def test_the_core_may_cancel_itself(client: AsyncClient, core: FakeTasks) -> None:
    """An operation that the core cancels, as when it closes, is an error and not a hang."""
    for call in (client.checkpoint("a"), client.pids("a")):
        core.fail = asyncio.CancelledError()
        with pytest.raises(Cancelled):
            await call


async def test_the_calls_deadline_bounds_the_core(
    server: Server, core: FakeTasks, address: str
) -> None:
    """The core's own deadline comes before the call's, unless a shorter one was asked for."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cryo_pb2_grpc.CryoStub(channel)
        request = cryo_pb2.CheckpointRequest(id="a")
        [_ async for _ in stub.Checkpoint(request, timeout=20)]
        request.timeout.FromSeconds(3)
        [_ async for _ in stub.Checkpoint(request, timeout=20)]
        [_ async for _ in stub.Checkpoint(request, timeout=2)]
    seen = [call[2].timeout_s for call in core.calls]

    assert 15 < seen[0] < 19.1
    assert seen[1] == 3
    assert 1 < seen[2] < 1.9


async def test_a_passed_deadline_rolls_back(server: Server, core: FakeTasks, address: str) -> None:
    """When the call's deadline passes in spite of that, the core is cancelled."""
    core.hold = True
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cryo_pb2_grpc.CryoStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Checkpoint(cryo_pb2.CheckpointRequest(id="a"), timeout=0.3)]
        await settle(core.rolled_back)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_client_timeout_is_an_error_of_ours(
    server: Server, core: FakeTasks, address: str
) -> None:
    """A call that takes longer than the client allows raises our class."""
    async with AsyncClient(address, timeout_s=0.2) as client:
        core.host_info.info = asyncio.Event().wait  # type: ignore[method-assign,assignment]  # hangs
        with pytest.raises(DeadlineExceeded):
            await client.info()


async def test_wait_ends_with_its_client(client: AsyncClient, core: FakeTasks) -> None:
    """A Wait whose client has gone does not stay in the core."""
    await client.create("a", "/b")
    task = asyncio.create_task(client.wait("a"))
    await settle(core.waiting)
    task.cancel()

    await settle(core.wait_cancelled)


@pytest.mark.parametrize("blocked", (set(), {signal.SIGINT}), ids=("wakes", "does not wake"))
def test_ctrl_c_ends_a_blocking_wait(
    blocking: Client, sidecar: Sidecar, blocked: set[signal.Signals]
) -> None:
    """The same for Ctrl-C in the blocking client.

    The main thread may not wake: the signal arrived just before it blocked, or in another thread.
    """
    blocking.create("a", "/b")

    def interrupt() -> None:
        sidecar.wait_for(sidecar.core.waiting)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with pytest.raises(KeyboardInterrupt):
            blocking.wait("a")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    thread.join()

    sidecar.wait_for(sidecar.core.wait_cancelled)


async def test_many_waits_do_not_hold_up_others(client: AsyncClient, core: FakeTasks) -> None:
    """State answers in time while hundreds of Waits are open."""
    await client.create("a", "/b")
    waits = [asyncio.create_task(client.wait("a")) for _ in range(300)]
    await settle(core.waiting)
    begun = time.monotonic()
    await client.state("a")
    took_s = time.monotonic() - begun
    core.end(next(iter(core.tasks)), 5)
    ended = await asyncio.gather(*waits)

    assert took_s < 2
    assert {end.status for end in ended} == {5}


async def test_a_slow_reader_loses_only_byte_counts(client: AsyncClient, core: FakeTasks) -> None:
    """A flood of byte counts is thinned; warnings, states and the result all arrive."""
    flood = [Progress(phase=Phase.SAVE, bytes_done=n + 1) for n in range(5000)]
    kept = Progress(phase=Phase.SEAL, message="the last", warning=True)

    async def work(report: Report) -> None:
        for progress in (*flood, kept):
            report(progress)

    core.work = work  # type: ignore[method-assign]  # one test's own kind of progress
    updates: list[Progress] = []
    result = await client.checkpoint("a", CheckpointOptions(), updates.append)

    assert result == RESULT
    assert updates[-1] == kept
    assert len(updates) < len(flood)
