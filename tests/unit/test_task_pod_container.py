"""A container of a pod: how its exit is learnt, from `runsc wait` and from its sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from shim.errors import IllegalState
from shim.host.process_id import ProcessId
from shim.model import CheckpointOptions, CreateRequest, TaskRef
from shim.state import TaskState
from shim.task import pod_container
from tests.unit.fakes_tasks import SPEC, FakeEnv, FakeSupervisor, Hung, Owner

WAIT_S = 60
CRI = "io.kubernetes.cri"


class WaitSupervisor(FakeSupervisor):
    """A supervisor whose `runsc wait` lives, or has printed an answer and exited."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: str | None = None
        self.waiters: list[ProcessId] = []
        self.waiting = asyncio.Event()

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ProcessId:
        """Start what is asked for."""
        if "wait" not in argv:
            return await super().spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr)
        if self.answer is None:
            process = await self._child("/bin/sleep", "1000")
        else:
            os.write(stdout, self.answer.encode())
            process = await self._child("/bin/true")
        self.waiters.append(process)
        self.waiting.set()
        return process

    def kill_waiter(self) -> None:
        """Kill `runsc wait` as the kernel does when memory is short."""
        self.waiting.clear()
        self.children[self.waiters[-1].pid].kill()


class Pod:
    """An owner with the container `m` in the sandbox of `a`."""

    def __init__(self, owner: Owner, supervisor: WaitSupervisor) -> None:
        self.owner = owner
        self.supervisor = supervisor
        self.tasks = owner.tasks
        self.ref = owner.ref("m")
        self.pid = 0

    async def begin(self) -> None:
        """Start both containers; each has a process of its own for its sandbox here."""
        await self.owner.running()
        await self.another("m")
        self.pid = self.tasks._task(self.ref).record.pid
        await self.tasks.start(self.ref)

    async def another(self, name: str) -> TaskRef:
        """Create one more container of the sandbox."""
        bundle = self.owner.folder / name
        (bundle / "rootfs").mkdir(parents=True)
        annotations = {
            f"{CRI}.container-type": "container",
            f"{CRI}.container-name": name,
            f"{CRI}.sandbox-id": "a",
        }
        (bundle / "config.json").write_text(json.dumps(SPEC | {"annotations": annotations}))
        ref = self.owner.ref(name)
        await self.tasks.create(CreateRequest(ref=ref, bundle=str(bundle)))
        return ref

    async def status(self) -> int:
        """Wait for the container's exit."""
        return (await asyncio.wait_for(self.tasks.wait(self.ref), WAIT_S)).status

    async def state(self) -> TaskState:
        """Return its state."""
        return (await self.tasks.state(self.ref)).state


@pytest.fixture
async def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pod]:
    """Give a pod that runs."""
    monkeypatch.setattr(pod_container, "_RETRY_S", 0)
    owner, supervisor = Owner(tmp_path), WaitSupervisor()
    owner.supervisor, owner.runtime_env = supervisor, FakeEnv(tmp_path / "state", supervisor)
    owner.tasks = owner._new()
    owner.script.prints("state", out=json.dumps({"id": "m+", "status": "running"}))
    made = Pod(owner, supervisor)
    try:
        await owner.tasks.recover()
        await made.begin()
        yield made
        await owner.tasks.close()
    finally:
        await supervisor.end()


async def test_its_own_exit_status(pod: Pod) -> None:
    """It is what `runsc wait` prints, while the sandbox keeps running."""
    folder = pod.owner.record_folder("m")
    (folder / "wait.json").write_text('{"id": "m+", "exitStatus": 3}')
    pod.supervisor.kill_waiter()

    assert await pod.status() == 3
    assert (await pod.tasks.state(pod.owner.ref())).state is TaskState.RUNNING


async def test_a_runsc_wait_that_is_killed_is_no_exit(pod: Pod) -> None:
    """The container keeps running, and its exit is learnt from the next one."""
    pod.supervisor.kill_waiter()
    await asyncio.wait_for(pod.supervisor.waiting.wait(), WAIT_S)
    assert await pod.state() is TaskState.RUNNING

    pod.supervisor.answer = '{"id": "m+", "exitStatus": 4}'
    pod.supervisor.kill_waiter()

    assert await pod.status() == 4
    assert len(pod.supervisor.waiters) == 3


async def test_a_container_that_no_process_saw_exit(pod: Pod) -> None:
    """Where runsc says that it has stopped, its exit is published with an unknown status."""
    pod.owner.script.prints("state", out=json.dumps({"id": "m+", "status": "stopped"}))

    pod.supervisor.kill_waiter()

    assert await pod.status() == 255


async def test_the_sandbox_ends(pod: Pod) -> None:
    """With it the container, whose `runsc wait` returns nothing."""
    pod.owner.kill_sandbox(pod.pid)
    pod.supervisor.kill_waiter()

    assert await pod.status() == 137


async def test_the_supervisor_is_gone(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit is published all the same, once the sandbox has exited."""
    monkeypatch.setattr(pod_container, "_FLUSH_S", 0.01)
    pod.owner.runtime_env.supervisor = pod.supervisor
    pod.supervisor.closed = True
    tasks = await pod.owner.again(killed=True)
    pod.tasks = tasks
    assert await pod.state() is TaskState.RUNNING

    for child in pod.supervisor.children.values():
        if child.returncode is None:
            child.kill()

    assert await pod.status() in (137, 255)
    assert await pod.state() is TaskState.STOPPED


async def test_a_kill_during_a_checkpoint_of_its_pod(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KILL of one container cancels the checkpoint of all, and the error of that says so."""
    hung = Hung()
    pod.owner.script.on("kill", "exit 0")  # the usual one ends the sandbox of `a`
    monkeypatch.setattr("shim.task.sandbox.Checkpoint.run", hung.run)
    sandbox = pod.owner.ref()
    work = asyncio.ensure_future(
        pod.tasks.checkpoint(sandbox, CheckpointOptions(), lambda _progress: None)
    )
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    await asyncio.wait_for(pod.tasks.kill(pod.ref, 9), WAIT_S)

    with pytest.raises(IllegalState, match="was killed during the checkpoint"):
        await asyncio.wait_for(work, WAIT_S)
    (kill,) = (call for call in pod.owner.script.calls if "kill" in call)
    assert kill[-2:] == ["m+", "9"]
    assert (await pod.tasks.state(sandbox)).state is TaskState.RUNNING


async def test_one_exits_while_another_is_waited_for(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is refused, and no container is left in it."""
    other = await pod.another("n")
    await pod.tasks.start(other)
    first = pod.tasks._task(pod.ref)

    @contextlib.asynccontextmanager
    async def quiesced() -> AsyncIterator[None]:
        first.machine.state = TaskState.STOPPED
        yield

    monkeypatch.setattr(pod.tasks._task(other).execs, "quiesced", quiesced)

    with pytest.raises(IllegalState, match="it is stopped"):
        await pod.tasks.checkpoint(pod.owner.ref(), CheckpointOptions(), lambda _: None)

    assert (await pod.tasks.state(pod.owner.ref())).state is TaskState.RUNNING
    assert (await pod.tasks.state(other)).state is TaskState.RUNNING


async def test_a_kill_of_one_leaves_the_start_of_another(pod: Pod) -> None:
    """Only a KILL of the one that starts, or of the sandbox itself, ends that."""
    other = await pod.another("n")
    pod.owner.script.on("kill", "exit 0")
    pod.supervisor.gate = asyncio.Event()
    children = len(pod.supervisor.children)
    work = asyncio.ensure_future(pod.tasks.start(other))
    async with asyncio.timeout(WAIT_S):
        while len(pod.supervisor.children) == children:  # noqa: ASYNC110 - the fake's children
            await asyncio.sleep(0.005)

    await pod.tasks.kill(pod.ref, 9)
    assert not any(one.killed for one in pod.tasks._transactions._running)
    assert not work.done()

    await pod.tasks.kill(pod.owner.ref(), 9)
    with pytest.raises(IllegalState, match="was killed during the start"):
        await asyncio.wait_for(work, WAIT_S)
