"""Hooks around a freeze and after a restore: which run, in what order, and what a failure does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import failpoints
from shim.errors import CryoError, CudaError, DeadlineExceeded, HookFailed, Unavailable
from shim.model import CudaState, EngineName, Phase
from shim.oci.pod import CONTAINER_TYPE
from shim.runsc.port_forward import PortStream
from shim.transaction.hook_runner import HookRunner
from shim.transaction.journal import Operation
from shim.transaction.recover import recover
from tests.unit.fakes_guest import HOOK, Cuda, FakeGuest, Fault, failed
from tests.unit.fakes_target import Make, Scene, in_states, parking

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED
MOVES = ["lock", "checkpoint", "restore", "unlock"]


def hook_annotations(*kinds: str, name: str = "", timeout: str = "60") -> dict[str, str]:
    """Return annotations of hooks that run the fake program with their kind as argument."""
    found = {f"io.cryo.hook.{kind}{name}": f"exec {HOOK} {kind}" for kind in kinds}
    return {**found, "io.cryo.hook.timeout": timeout}


ALL = hook_annotations("pre-freeze", "post-thaw", "post-restore")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks whose CUDA processes are in these states."""
    with in_states(tmp_path) as made:
        yield made


async def error_of(scene: Scene, **options: Any) -> CryoError:
    """Make a checkpoint that fails; the task must run as before."""
    error = await scene.error(engine=EngineName.PHASED, **options)
    assert scene.as_before()
    return error


# -- a checkpoint --------------------------------------------------------------------------------


async def test_they_run_around_the_freeze(make: Make) -> None:
    """Before the first lock and after the last unlock, as the container's own process, timed."""
    scene = make(RUNNING, annotations=ALL)

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert scene.guest.verbs() == ["pre-freeze", *MOVES, "post-thaw"]
    assert scene.guest.as_process == scene.target.spec.data["process"]
    assert {"pre-freeze", "post-thaw"} < set(result.timings_s)
    assert result.warnings == ()
    said = [one.message for one in scene.updates if one.phase is Phase.PRE_FREEZE]
    assert [text.partition(" in ")[0] for text in said] == ["", "a"]
    assert scene.on_disk() is None


async def test_a_task_that_ends_is_not_woken(make: Make) -> None:
    """Its image is that of the task after the pre-freeze hook; a restore has a hook of its own."""
    scene = make(RUNNING, annotations=ALL)

    await scene.checkpoint(engine=EngineName.PHASED, exit=True)

    assert scene.guest.verbs() == ["pre-freeze", "lock", "checkpoint"]


async def test_only_a_post_thaw_hook(make: Make) -> None:
    """It runs after each thaw."""
    scene = make(RUNNING, annotations=hook_annotations("post-thaw"))
    await scene.checkpoint(engine=EngineName.PHASED)
    assert scene.guest.verbs() == [*MOVES, "post-thaw"]


async def test_no_hooks_are_no_steps(make: Make) -> None:
    """A task without any has no phase and no timing of them."""
    scene = make(RUNNING)
    result = await scene.checkpoint(engine=EngineName.PHASED)
    assert set(result.timings_s) == {"preflight", "freeze", "save", "thaw", "seal", "commit"}


async def test_a_paused_task(make: Make) -> None:
    """Nothing can run in it: there is a warning, and it stays paused."""
    scene = make(RUNNING, annotations=ALL, paused=True)

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert result.warnings == ("the task is paused, so its hooks are not run",)
    assert "pre-freeze" not in scene.guest.verbs()
    assert scene.guest.paused


# -- a failure -----------------------------------------------------------------------------------


async def test_a_pre_freeze_hook_that_fails(make: Make) -> None:
    """Nothing is frozen, post-thaw runs, and the error has the output, escaped and cut."""
    scene = make(RUNNING, annotations=ALL)
    answer = failed("busy\x1b[2J\n" + "x" * 10000, 3)
    scene.guest.faults["pre-freeze", 0] = Fault(answer=answer)

    error = await error_of(scene)

    assert type(error) is HookFailed
    assert error.message.startswith(
        "the hook pre-freeze of a failed: exit status 3: busy\\x1b[2J xxx"
    )
    assert len(error.message) < 600
    assert scene.guest.verbs() == ["pre-freeze", "post-thaw"]


async def test_a_pre_freeze_hook_that_hangs(make: Make) -> None:
    """Its deadline ends it; nothing is frozen, and post-thaw runs."""
    scene = make(RUNNING, annotations=hook_annotations("pre-freeze", "post-thaw", timeout="0.05"))
    scene.guest.faults["pre-freeze", 0] = Fault(hang=True)

    error = await error_of(scene)

    assert type(error) is DeadlineExceeded
    assert error.message == "the hook pre-freeze of a did not end in 0.05 s"
    assert "io.cryo.hook.timeout" in error.remedy
    assert scene.guest.verbs() == ["pre-freeze", "post-thaw"]


async def test_a_program_that_the_image_lacks(make: Make) -> None:
    """It is a failure of the hook."""
    scene = make(RUNNING, annotations={"io.cryo.hook.pre-freeze": "exec nothing"})
    error = await error_of(scene)
    assert type(error) is HookFailed
    assert "the image has no program nothing" in error.message


async def test_a_freeze_that_fails(make: Make) -> None:
    """Post-thaw runs when all processes run again."""
    scene = make(RUNNING, annotations=ALL)
    scene.guest.faults["checkpoint", 7] = Fault(answer=failed("launch failure"))

    assert type(await error_of(scene)) is CudaError
    assert scene.guest.verbs() == ["pre-freeze", "lock", "unlock", "post-thaw"]


async def test_a_failure_after_the_thaw(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Post-thaw has run, and does not run again."""
    scene = make(RUNNING, annotations=ALL)

    def full(name: str) -> None:
        if name == "image.manifest:before":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(failpoints, "_hook", full)
    await error_of(scene)
    assert scene.guest.verbs() == ["pre-freeze", *MOVES, "post-thaw"]


async def test_a_cancelled_pre_freeze_hook(make: Make) -> None:
    """Post-thaw runs in the rollback."""
    scene = make(RUNNING, annotations=ALL)
    scene.guest.faults["pre-freeze", 0] = Fault(hang=True)
    work = asyncio.create_task(scene.checkpoint(engine=EngineName.PHASED))
    await asyncio.wait_for(scene.guest.hanging.wait(), 60)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert scene.guest.verbs() == ["pre-freeze", "post-thaw"]
    assert scene.as_before()


async def test_a_post_thaw_hook_that_fails(make: Make) -> None:
    """The image is complete; the failure is a warning with the output."""
    scene = make(RUNNING, annotations=ALL)
    scene.guest.faults["post-thaw", 0] = Fault(answer=failed("no memory"))

    result = await scene.checkpoint(engine=EngineName.PHASED)

    warning = "the hook post-thaw of a failed: exit status 1: no memory"
    assert result.warnings == (warning,)
    assert scene.warnings == [warning]
    assert scene.on_disk() is None


async def test_a_task_that_cannot_be_thawed(make: Make) -> None:
    """Post-thaw is left to the recovery, which runs it once the task runs again."""
    scene = make(RUNNING, annotations=ALL)
    scene.guest.faults["checkpoint", 7] = Fault(answer=failed("launch failure"))
    scene.guest.faults["unlock", 7] = Fault(answer=failed("broken"), times=3)

    await scene.error(engine=EngineName.PHASED)
    assert "post-thaw" not in scene.guest.verbs()

    entry = scene.journal.load()
    assert entry is not None
    assert entry.hooked
    scene.guest.faults.clear()
    await recover(scene.target, entry, scene.updates.append)
    assert scene.guest.verbs()[-1] == "post-thaw"
    assert scene.as_before()


# -- a crash -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hooked", (False, True))
async def test_a_recovery(make: Make, hooked: bool) -> None:
    """The next owner runs post-thaw if pre-freeze had begun, after the thaw; its failure is one."""
    scene = make(FROZEN, annotations=ALL)
    scene.guest.faults["post-thaw", 0] = Fault(answer=failed("no"))
    scene.journal.open(Operation.CHECKPOINT, str(scene.images / "image"))
    scene.journal.note(hooked=hooked, engine=EngineName.PHASED, phase=Phase.FREEZE)
    scene.journal.process(7, "p7", "checkpointed")
    entry = scene.journal.load()
    assert entry is not None

    await recover(scene.target, entry, scene.updates.append)

    assert scene.guest.verbs() == ["restore", "unlock", *(["post-thaw"] if hooked else [])]
    failure = "the hook post-thaw of a failed: exit status 1: no"
    assert scene.warnings == [failure] * hooked
    assert scene.as_before()


# -- park ----------------------------------------------------------------------------------------


async def test_park_and_resume(make: Make) -> None:
    """Pre-freeze runs before a park, post-thaw after the resume, also by another owner."""
    scene = make(RUNNING, annotations=ALL)

    await parking(scene).park()
    assert scene.guest.verbs() == ["pre-freeze", "lock", "checkpoint"]

    scene.journal.load()
    await parking(scene).unpark()
    assert scene.guest.verbs() == ["pre-freeze", *MOVES, "post-thaw"]
    assert scene.as_before()


async def test_a_park_that_is_undone(make: Make) -> None:
    """A hook that fails ends it before anything is frozen; post-thaw runs."""
    scene = make(RUNNING, annotations=ALL)
    scene.guest.faults["pre-freeze", 0] = Fault(answer=failed("no"))

    with pytest.raises(HookFailed, match="exit status 1: no"):
        await parking(scene).park()

    assert scene.guest.verbs() == ["pre-freeze", "post-thaw"]
    assert scene.as_before()


async def test_a_checkpoint_of_a_parked_task(make: Make) -> None:
    """No hook runs: it stays parked, and post-thaw waits for the resume."""
    scene = make(RUNNING, annotations=ALL)
    await parking(scene).park()
    scene.guest.done.clear()
    scene.paused = True
    scene.journal.load()

    assert (await scene.checkpoint(engine=EngineName.PHASED)).warnings == ()
    assert scene.guest.verbs() == []

    scene.journal.load()
    await parking(scene).unpark()
    assert scene.guest.verbs() == ["restore", "unlock", "post-thaw"]


# -- pods ----------------------------------------------------------------------------------------


def pod_of(scene: Scene, *names: str) -> dict[str, FakeGuest]:
    """Turn a scene into a pod's sandbox with members of these names."""
    scene.annotations[CONTAINER_TYPE] = "sandbox"
    scene.named = "{}"
    scene.others.update({name: FakeGuest([Cuda(7, name)]) for name in names})
    return scene.others


def hooked(scene: Scene) -> list[str]:
    """Name the containers in which a hook has run."""
    guests = {"a": scene.guest, **scene.others}
    return [name for name, guest in guests.items() if "pre-freeze" in guest.verbs()]


async def test_a_command_without_a_name_in_a_pod_of_one(make: Make) -> None:
    """It runs once, in the only container beside the sandbox's own."""
    scene = make(RUNNING)
    pod_of(scene, "b")
    scene.pod_annotations.update(hook_annotations("pre-freeze"))

    await scene.checkpoint(engine=EngineName.PHASED)

    assert hooked(scene) == ["b"]
    assert scene.others["b"].verbs().count("pre-freeze") == 1


async def test_a_command_without_a_name_in_a_pod_of_several(make: Make) -> None:
    """It is refused before anything is done."""
    scene = make(RUNNING)
    pod_of(scene, "b", "c")
    scene.pod_annotations.update(hook_annotations("pre-freeze"))

    error = await error_of(scene)

    assert type(error) is HookFailed
    assert "io.cryo.hook.pre-freeze.CONTAINER" in error.remedy
    assert hooked(scene) == []


async def test_commands_with_names(make: Make) -> None:
    """Each runs in the container that it names, by name; the pod's annotations are in each."""
    scene = make(RUNNING)
    pod_of(scene, "c", "b")
    order: list[str] = []
    for name, guest in scene.others.items():
        answer = Fault(deed=lambda name=name: order.append(name))  # type: ignore[misc]
        guest.faults["pre-freeze", 0] = answer
    scene.pod_annotations.update(hook_annotations("pre-freeze", name=".c"))
    scene.pod_annotations.update(hook_annotations("pre-freeze", name=".b"))
    scene.pod_annotations.update(hook_annotations("pre-freeze", name=".gone"))

    await scene.checkpoint(engine=EngineName.PHASED)

    assert hooked(scene) == ["c", "b"]
    assert order == ["b", "c"]


async def test_a_sandbox_that_is_no_pod(make: Make) -> None:
    """Its own container has its hook."""
    scene = make(RUNNING, annotations=hook_annotations("pre-freeze"))
    scene.others["b"] = FakeGuest([Cuda(7, "b")])

    await scene.checkpoint(engine=EngineName.PHASED)

    assert hooked(scene) == ["a"]


# -- HTTP ----------------------------------------------------------------------------------------


class Answers:
    """The ports of a sandbox, each with the answer of its server."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch, **ports: bytes) -> None:
        self.asked: list[tuple[str, int]] = []
        self._ports = {int(name.removeprefix("p")): answer for name, answer in ports.items()}
        monkeypatch.setattr(scene.runsc.sentry, "connect", self.connect)

    @contextlib.asynccontextmanager
    async def connect(
        self, task_id: str, port: int, *, timeout_s: float
    ) -> AsyncIterator[PortStream]:
        """Give a stream to a server that has answered already."""
        self.asked.append((task_id, port))
        if port not in self._ports:
            message = f"nothing listens on port {port} of the sandbox's loopback"
            raise Unavailable(message)
        reader = asyncio.StreamReader()
        reader.feed_data(self._ports[port])
        reader.feed_eof()
        yield PortStream(reader, Deaf())


class Deaf(asyncio.StreamWriter):
    """A writer whose data is dropped."""

    def __init__(self) -> None:
        """Have no transport."""

    def __del__(self) -> None:
        """Have nothing to close."""

    def write(self, data: Any) -> None:
        """Drop it."""

    async def drain(self) -> None:
        """Be done."""


@pytest.mark.parametrize(
    ("answer", "why"),
    (
        (b"HTTP/1.1 503 Busy\r\n\r\nloading\x07", "POST /sleep: status 503: loading\\x07"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "POST /sleep: status 404"),
        (b"garbage\r\n", "POST /sleep: the answer begins with"),
        (b"", "POST /sleep: the answer is incomplete"),
    ),
)
async def test_a_request_that_fails(
    make: Make, monkeypatch: pytest.MonkeyPatch, answer: bytes, why: str
) -> None:
    """Any status but 2xx, and no answer, end the checkpoint before the freeze."""
    scene = make(RUNNING, annotations={"io.cryo.hook.pre-freeze": "http://:80/sleep"})
    Answers(scene, monkeypatch, p80=answer)

    error = await error_of(scene)

    assert type(error) is HookFailed
    assert error.message.startswith(f"the hook pre-freeze of a failed: {why}")


async def test_nothing_listens(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a failure of the hook."""
    scene = make(RUNNING, annotations={"io.cryo.hook.pre-freeze": "http://:80/"})
    Answers(scene, monkeypatch)
    error = await error_of(scene)
    assert type(error) is HookFailed
    assert "nothing listens on port 80" in error.message


async def test_a_request_of_a_pod(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name it is made once: the containers share the loopback."""
    scene = make(RUNNING)
    pod_of(scene, "b", "c")
    scene.pod_annotations["io.cryo.hook.pre-freeze"] = "http://:80/sleep"
    answers = Answers(scene, monkeypatch, p80=b"HTTP/1.1 200 OK\r\n\r\n")

    await scene.checkpoint(engine=EngineName.PHASED)

    assert answers.asked == [("a", 80)]


# -- a restore -----------------------------------------------------------------------------------


async def test_after_a_restore(make: Make) -> None:
    """Post-restore hooks run; the first that fails is the error."""
    scene = make(RUNNING, annotations=ALL)
    await HookRunner(scene.target, scene.updates.append).after_restore()
    assert scene.guest.verbs() == ["post-restore"]

    scene.guest.faults["post-restore", 0] = Fault(answer=failed("no peers"))
    with pytest.raises(HookFailed, match="post-restore of a failed: exit status 1: no peers"):
        await HookRunner(scene.target, scene.updates.append).after_restore()
