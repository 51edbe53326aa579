"""Checkpoint as a transaction: a complete image, or a task that runs as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim import failpoints
from shim.config import Store, Timeouts
from shim.errors import (
    AlreadyExists,
    CryoError,
    CudaError,
    DeadlineExceeded,
    Refused,
    ResourceExhausted,
    RunscError,
    Unimplemented,
)
from shim.host import files
from shim.image import staging, store
from shim.image.staging import STAGING_PREFIX, Staging
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Connections, CudaMode, CudaProcess, CudaState, EngineName, Phase, Verify
from shim.runsc.output import GuestProcess
from shim.transaction import save_idle
from shim.transaction.journal import Entry
from tests.unit.fakes_guest import DEVICE, TOOL, Cuda, Fault, failed
from tests.unit.fakes_target import Scene, scenes

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED
Make = Callable[..., Scene]
# 192.168.1.1:80, as /proc/net/tcp writes it.
PEER = "0101A8C0:0050 01"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of scenes with two CUDA processes, or those that are named."""
    with scenes(tmp_path) as scene:
        yield scene


def image_is_whole(scene: Scene, path: str) -> bool:
    """Read the image again, every byte of it."""
    cache = VerifyCache(scene.folder / "other-cache")
    verify(Path(path), Verify.FULL, cache, lambda _: None)
    return True


# -- when all goes well --------------------------------------------------------------------------


async def test_phased_freezes_before_and_thaws_after_the_save(make: Make) -> None:
    """At the save every process is frozen; afterwards each one runs, and the image is whole."""
    scene = make()

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert scene.events == ["save checkpointed checkpointed", "saved"]
    assert scene.guest.states == [RUNNING, RUNNING]
    assert scene.guest.verbs() == [
        *["lock"] * 2,
        *["checkpoint"] * 2,
        *["restore"] * 2,
        *["unlock"] * 2,
    ]
    assert image_is_whole(scene, result.image_path)
    assert scene.on_disk() is None
    assert result.engine == "phased"
    assert result.processes == (CudaProcess(pid=7, name="train"), CudaProcess(pid=8, name="infer"))
    assert set(result.timings_s) == {"preflight", "freeze", "save", "thaw", "seal", "commit"}
    assert result.warnings == ()


async def test_builtin_leaves_the_steps_to_runsc(make: Make) -> None:
    """The tool's path goes with the save, and no action of ours is done."""
    scene = make()

    result = await scene.checkpoint()

    assert result.engine == "builtin"
    assert [save.cuda_checkpoint_path for save in scene.runsc.saves] == [TOOL]
    assert scene.guest.verbs() == []
    assert scene.guest.states == [RUNNING, RUNNING]
    assert image_is_whole(scene, result.image_path)


async def test_nothing_is_ever_toggled_by_us(make: Make) -> None:
    """With a driver that has actions, no command line of ours says --toggle."""
    scene = make()

    await scene.checkpoint(engine=EngineName.PHASED)
    await scene.checkpoint(engine=EngineName.BUILTIN)

    assert scene.guest.calls
    assert not any("--toggle" in argv for argv in scene.guest.calls)


async def test_a_container_without_gpu_is_not_looked_into(make: Make) -> None:
    """It checkpoints as any container does: no exec, no engine."""
    scene = make(gpu=False)

    result = await scene.checkpoint()

    assert scene.guest.calls == []
    assert (result.engine, result.processes) == ("", ())
    assert [save.cuda_checkpoint_path for save in scene.runsc.saves] == [""]


async def test_a_gpu_that_no_process_uses(make: Make) -> None:
    """No CUDA process found is a plain checkpoint, unless one is insisted on."""
    scene = make(Cuda(7, "idle", state=FROZEN))
    scene.guest.processes.clear()

    assert (await scene.checkpoint()).engine == ""
    error = await scene.error(cuda=CudaMode.REQUIRE)
    assert isinstance(error, Refused)
    assert "no CUDA process" in error.message


async def test_with_exit_the_task_ends_frozen(make: Make) -> None:
    """There is no thaw before a stop, and the stop comes when the image has its name."""
    scene = make()
    named: list[bool] = []
    scene.at_phase("stop", lambda: named.append(any(scene.images.rglob("cryo.json"))))

    result = await scene.checkpoint(exit=True, engine=EngineName.PHASED)

    assert scene.events == ["save checkpointed checkpointed", "saved", "stop"]
    assert named == [True]
    assert "restore" not in scene.guest.verbs()
    assert image_is_whole(scene, result.image_path)
    assert scene.on_disk() is None


async def test_a_paused_task_stays_paused(make: Make) -> None:
    """It is resumed for the CUDA steps, which need exec, and left as it was found."""
    scene = make(paused=True)

    await scene.checkpoint(engine=EngineName.PHASED)

    assert scene.events == ["resume", "save checkpointed checkpointed", "saved", "pause"]
    assert scene.guest.paused
    assert scene.guest.states == [RUNNING, RUNNING]


async def test_a_paused_task_without_gpu_is_not_woken(make: Make) -> None:
    """Nothing in it runs for even a moment."""
    scene = make(paused=True, gpu=False)

    await scene.checkpoint()

    assert "resume" not in scene.events


async def test_what_the_journal_says_when_the_save_begins(make: Make) -> None:
    """Everything that the next owner would need is on disk before the save."""
    scene = make(paused=True)
    seen: list[Entry | None] = []
    scene.runsc.save_gate = asyncio.Event()
    work = asyncio.create_task(scene.checkpoint(engine=EngineName.PHASED, exit=True))
    await asyncio.wait_for(scene.runsc.saving.wait(), 60)
    seen.append(scene.on_disk())
    scene.runsc.save_gate.set()
    await work

    (entry,) = seen
    assert entry is not None
    assert (entry.phase, entry.engine) == (Phase.SAVE, EngineName.PHASED)
    assert (entry.was_paused, entry.exit, entry.committed) == (True, True, False)
    assert (entry.save_pid, entry.save_start) == (12345, 67890)
    assert entry.staging.startswith(str(scene.images))
    assert {pid: one.name for pid, one in entry.processes.items()} == {"7": "train", "8": "infer"}


async def test_a_process_found_late_is_in_the_journal_and_the_image(make: Make) -> None:
    """One that appears in the middle of the freeze is recorded like the others."""
    scene = make()
    scene.guest.faults["lock", 8] = Fault(deed=scene.guest.appears(20))

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert [process.pid for process in result.processes] == [7, 8, 20]


async def test_one_that_exits_is_not_in_the_image(make: Make) -> None:
    """A restore must not wait for a process that was gone when the save began."""
    scene = make()
    scene.guest.faults["checkpoint", 8] = Fault(deed=scene.guest.gone(8))

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert [process.pid for process in result.processes] == [7]


# -- refusals, before anything is touched --------------------------------------------------------


def untouched(scene: Scene) -> bool:
    """Whether there was neither a save nor a move."""
    return scene.as_before() and scene.runsc.saves == [] and scene.guest.verbs() == []


async def test_no_tool_in_the_container(make: Make) -> None:
    """A GPU container without a usable tool is refused, with the way out."""
    scene = make()
    scene.guest.tool = False

    error = await scene.error()

    assert isinstance(error, Refused)
    assert "cuda-checkpoint is not in the container" in error.message
    assert "--cuda ignore" in error.remedy
    assert untouched(scene)


async def test_ignoring_cuda_is_said_aloud(make: Make) -> None:
    """The explicit way past leaves a warning in the result, and runs nothing inside."""
    scene = make()
    scene.guest.tool = False

    result = await scene.checkpoint(cuda=CudaMode.IGNORE)

    assert result.warnings == ("--cuda ignore: GPU state is neither saved nor protected",)
    assert scene.guest.calls == []


async def test_insisting_on_a_gpu_where_there_is_none(make: Make) -> None:
    """What was asked for cannot be."""
    scene = make(gpu=False)

    assert isinstance(await scene.error(cuda=CudaMode.REQUIRE), Refused)
    assert untouched(scene)


@pytest.mark.parametrize("driver", ("535.129.03", "gibberish"))
async def test_a_driver_that_cannot(make: Make, driver: str) -> None:
    """Below 550 nothing can be done, and that is said before anything is."""
    scene = make(driver=driver)

    assert isinstance(await scene.error(), Refused)
    assert untouched(scene)


async def test_an_older_driver_warns_of_what_is_lost(make: Make) -> None:
    """Below 570 there is no lock timeout: the caller gets a warning."""
    scene = make(driver="555.42.02")

    result = await scene.checkpoint()

    assert any("no lock timeout" in warning for warning in result.warnings)


async def test_the_engine_that_this_runsc_has_not(make: Make) -> None:
    """Asked for by name, the missing engine is an error; by auto the other one is taken."""
    scene = make(new=False)

    error = await scene.error(engine=EngineName.BUILTIN)
    assert isinstance(error, Unimplemented)
    assert "phased" in error.remedy
    assert untouched(scene)
    assert (await scene.checkpoint()).engine == "phased"


async def test_auto_does_not_invert(make: Make) -> None:
    """A process that is frozen already makes auto choose the engine that reads states."""
    scene = make(Cuda(7), Cuda(8, state=CudaState.LOCKED))

    assert (await scene.checkpoint()).engine == "phased"


@pytest.mark.parametrize("new", (True, False))
async def test_exec_sessions(make: Make, new: bool) -> None:
    """Older runsc makes an unusable image of them and is refused; newer ones end: a warning."""
    scene = make(new=new)
    scene.guest.execs = (GuestProcess(pid=40, parent=0, command="bash"),)

    if new:
        assert any("40 (bash)" in text for text in (await scene.checkpoint()).warnings)
    else:
        error = await scene.error()
        assert isinstance(error, Refused)
        assert "40 (bash)" in error.message
        assert error.remedy
        assert untouched(scene)


@pytest.mark.parametrize("new", (True, False))
async def test_non_cuda_holders(make: Make, new: bool) -> None:
    """A device held without CUDA state is named; where runsc cannot save that it is refused."""
    scene = make(Cuda(7), Cuda(9, "nvml", state=None), new=new)

    if new:
        assert any("9 (nvml)" in text for text in (await scene.checkpoint()).warnings)
    else:
        assert "9 (nvml)" in (await scene.error()).message
        assert untouched(scene)


@pytest.mark.parametrize("policy", tuple(Connections))
async def test_connections_that_a_save_cuts(make: Make, policy: Connections) -> None:
    """They are named; whether that is a warning or a no is the caller's."""
    scene = make()
    scene.guest.tcp = (PEER,)

    if policy is Connections.CUT:
        assert any("192.168.1.1:80" in t for t in (await scene.checkpoint()).warnings)
    else:
        error = await scene.error(connections=policy)
        assert isinstance(error, Refused)
        assert "192.168.1.1:80" in error.message
        assert untouched(scene)


async def test_a_disk_that_is_too_small(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the image may need is known before the freeze."""
    scene = make()
    monkeypatch.setattr(files, "free_bytes", lambda _path: 1 << 20)

    error = await scene.error()

    assert isinstance(error, ResourceExhausted)
    assert "1 MiB free" in error.message
    assert untouched(scene)


async def test_gpu_memory_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the GPU holds goes through host memory to the disk."""
    scene = make()
    smi = scene.folder / "smi"
    smi.write_text(f"#!/bin/sh\necho '{scene.sandbox.pid}, A, 4096'\necho '1, A, 99999'\n")
    smi.chmod(0o755)
    scene.nvidia_smi = str(smi)
    monkeypatch.setattr(files, "free_bytes", lambda _path: 1 << 30)

    error = await scene.error()

    assert isinstance(error, ResourceExhausted)
    assert untouched(scene)


async def test_no_nvidia_smi_is_a_warning(make: Make) -> None:
    """Without it the size is not known beforehand; that is no reason to save nothing."""
    scene = make(nvidia_smi="/nonexistent/nvidia-smi")

    result = await scene.checkpoint()

    assert any("GPU memory" in warning for warning in result.warnings)


async def test_an_image_path_that_is_taken(make: Make) -> None:
    """Nothing is overwritten, and nothing was begun."""
    scene = make()
    (scene.folder / "taken").mkdir()

    assert isinstance(await scene.error(image_path=str(scene.folder / "taken")), AlreadyExists)
    assert untouched(scene)


async def test_a_refusal_of_a_paused_task_leaves_it_paused(make: Make) -> None:
    """It was resumed to look into it."""
    scene = make(paused=True)
    scene.guest.tool = False

    assert isinstance(await scene.error(), Refused)

    assert scene.events == ["resume", "pause"]
    assert untouched(scene)


# -- failures on the way -------------------------------------------------------------------------

FULL = ResourceExhausted("runsc checkpoint: the disk is full")
NO = failed("operation not supported")


@pytest.mark.parametrize(
    ("key", "kind"),
    (
        (("scan", 0), DeadlineExceeded),
        (("get-state", 8), CudaError),
        (("lock", 8), CudaError),
        (("checkpoint", 8), CudaError),
    ),
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
async def test_a_step_before_the_save_fails(
    make: Make, key: tuple[str, int], kind: type[CryoError]
) -> None:
    """Whatever was done is undone, and no image is left."""
    scene = make(Cuda(7), Cuda(8), Cuda(9), timeouts=Timeouts(detect=0.05, rollback=5))
    hang = key[0] == "scan"
    answer = failed("", 127) if key[0] == "get-state" else NO
    scene.guest.faults[key] = Fault(answer=None if hang else answer, hang=hang)

    assert isinstance(await scene.error(engine=EngineName.PHASED), kind)

    assert scene.as_before()
    assert scene.runsc.saves == []


@pytest.mark.parametrize("answered", (True, False))
async def test_files_that_stay_open_after_a_failed_save(
    make: Make, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """Where the sentry has answered they are litter; where not, the save may go on and is awaited.

    The newest runsc leaves them to its garbage collector: the task was frozen for up to 80 s.
    """
    monkeypatch.setattr(save_idle, "writes", lambda *_: True)
    scene = make(Cuda(7), timeouts=Timeouts(rollback=60 if answered else 0.5))
    scene.runsc.fails["checkpoint"] = FULL
    scene.runsc.answers = answered

    error = await scene.error(engine=EngineName.PHASED)

    if not answered:
        # Within the time of a rollback, and it says what it has waited for.
        assert "did not end in 0.5 s: the sandbox has not finished its save" in error.message
    assert (error is FULL) is answered, error
    assert scene.as_before() is answered


@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
@pytest.mark.parametrize("paused", (False, True))
async def test_the_save_fails(make: Make, engine: EngineName, paused: bool) -> None:
    """A full disk leaves the processes frozen with either engine: both bring them back."""
    scene = make(paused=paused)
    scene.runsc.fails["checkpoint"] = FULL

    assert await scene.error(engine=engine) is FULL

    assert scene.as_before()


async def test_the_builtin_save_settles_before_the_undo(make: Make) -> None:
    """The sentry owes toggles after a failed save; done later they would invert."""
    scene = make()
    scene.runsc.fails["checkpoint"] = FULL

    await scene.error(engine=EngineName.BUILTIN)

    assert scene.guest.settle_calls == 1
    assert scene.guest.verbs() == [*["restore"] * 2, *["unlock"] * 2]


async def test_a_full_disk_in_disguise(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """20240729 dereferences nil where the disk is full: what the disk says counts."""
    scene = make(new=False)
    nil = RunscError("checkpoint", 128, "runtime error: invalid memory address")
    scene.runsc.fails["checkpoint"] = nil
    scene.at_phase("save", lambda: monkeypatch.setattr(files, "free_bytes", lambda _path: 4096))

    error = await scene.error()

    assert isinstance(error, ResourceExhausted)
    assert "disk is full" in error.message
    assert scene.as_before()


async def test_another_crash_of_runsc_stays_what_it_is(make: Make) -> None:
    """With room on the disk the same words mean something else."""
    scene = make(new=False)
    scene.runsc.fails["checkpoint"] = RunscError("checkpoint", 128, "runtime error: nil")

    assert isinstance(await scene.error(), RunscError)
    assert scene.as_before()


def unwritable() -> RunscError:
    """Give what runsc says of state that cannot be saved."""
    return RunscError("checkpoint", 128, "encoding error: nvproxy.frontendFD is not saveable")


async def test_the_staging_folder_is_known_before_it_is_made(make: Make) -> None:
    """The next owner removes it, also outside the folders that are searched."""
    scene, reported = make(), []

    def look(point: str) -> None:
        if point == "image.begin:before" and (entry := scene.on_disk()):
            reported.append(entry.staging)

    failpoints.arm(look)
    try:
        await scene.checkpoint()
    finally:
        failpoints.arm(None)

    assert [Path(path).name.startswith(STAGING_PREFIX) for path in reported] == [True]


async def test_a_save_that_meets_a_newcomer(make: Make) -> None:
    """Who begins to use the GPU between the last look and the save is frozen for another one."""
    scene = make(Cuda(7, "train"))
    scene.runsc.fails["checkpoint"] = unwritable()

    def appears() -> None:
        scene.guest.appears(20)()
        scene.runsc.fails.clear()

    scene.runsc.failing = appears

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert scene.events == ["save checkpointed", "save checkpointed checkpointed", "saved"]
    assert any("retrying" in updates.message for updates in scene.updates)
    assert [process.pid for process in result.processes] == [7, 20]
    assert scene.guest.states == [RUNNING, RUNNING]
    assert image_is_whole(scene, result.image_path)


@pytest.mark.parametrize("answers", (True, False))
async def test_a_save_that_never_works(make: Make, *, answers: bool) -> None:
    """It is tried a few times, but only once where the sentry may still be at it."""
    scene = make(Cuda(7))
    scene.runsc.fails["checkpoint"] = unwritable()
    scene.runsc.answers = answers

    error = await scene.error(engine=EngineName.PHASED)

    assert "not saveable" in error.message
    assert len(scene.runsc.saves) == (4 if answers else 1)
    assert scene.as_before()


async def test_a_thaw_that_fails_once_is_tried_the_other_way(make: Make) -> None:
    """The image is good and the task comes back: that is a success."""
    scene = make()
    scene.guest.faults["unlock", 8] = Fault(answer=NO)

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert scene.guest.states == [RUNNING, RUNNING]
    assert image_is_whole(scene, result.image_path)


async def test_builtin_processes_left_frozen_are_thawed(make: Make) -> None:
    """Runsc's toggle after the save may fail for one process: ours follows."""
    scene = make()
    scene.runsc.fails["resume toggles"] = CudaError("no")

    await scene.checkpoint(engine=EngineName.BUILTIN)

    assert scene.guest.states == [RUNNING, RUNNING]


async def test_a_process_that_does_not_come_back(make: Make) -> None:
    """The image is all that is left of it, so it is finished; the error says that it is."""
    scene = make()
    scene.guest.faults["restore", 8] = Fault(answer=failed("out of memory"), times=99)

    error = await scene.error(engine=EngineName.PHASED)

    assert "out of memory" in error.message
    assert "is complete" in error.message
    assert "restore the image" in error.remedy
    (manifest,) = scene.images.rglob("cryo.json")
    assert image_is_whole(scene, str(manifest.parent))
    assert scene.guest.states == [RUNNING, FROZEN]
    entry = scene.on_disk()
    assert entry is not None, "the next owner tries again"
    assert entry.committed


TOGGLE = '"cuda-checkpoint --toggle for PID 8 in container" failed with exit status 1'


async def test_runsc_fails_only_to_thaw(make: Make) -> None:
    """Its image is complete then, and the thaw is done by us: a success with a warning."""
    scene = make()
    scene.runsc.fails["resume toggles"] = scene.runsc.fails["saved"] = RunscError(
        "checkpoint", 128, TOGGLE
    )

    result = await scene.checkpoint(engine=EngineName.BUILTIN)

    assert scene.guest.states == [RUNNING, RUNNING]
    assert image_is_whole(scene, result.image_path)
    assert any("could not thaw after its save" in warning for warning in result.warnings)


async def test_runsc_fails_to_freeze(make: Make) -> None:
    """The same words with nothing written mean that there is no image."""
    scene = make()
    scene.runsc.half = b""
    scene.runsc.fails["checkpoint"] = RunscError("checkpoint", 128, TOGGLE)

    error = await scene.error(engine=EngineName.BUILTIN)

    assert isinstance(error, CudaError)
    assert "process 8 (infer)" in error.message
    assert scene.as_before()


async def test_one_that_begins_during_runscs_own_save(make: Make) -> None:
    """Runsc looks once, before its freeze: an image with a running process in it is none."""
    scene = make()
    scene.runsc.save_gate = asyncio.Event()
    work = asyncio.ensure_future(scene.error(engine=EngineName.BUILTIN))
    await asyncio.wait_for(scene.runsc.saving.wait(), 60)
    scene.runsc.save_gate.set()
    scene.guest.faults["scan", 0] = Fault(deed=scene.guest.appears(20))

    error = await work

    assert isinstance(error, CudaError)
    assert "20 (late) began to use the GPU during the save" in error.message
    assert scene.as_before()


async def test_a_rollback_that_fails_keeps_a_complete_image(make: Make) -> None:
    """What could not be thawed is whole in the image and nowhere else."""
    scene = make()
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)

    def mistake() -> None:
        raise ZeroDivisionError

    scene.at_phase("thaw", mistake)

    error = await scene.error(engine=EngineName.PHASED)

    assert "is complete" in error.message
    (manifest,) = scene.images.rglob("cryo.json")
    assert image_is_whole(scene, str(manifest.parent))


async def test_the_seal_fails(make: Make) -> None:
    """An image that cannot be made durable is none; the task runs already."""
    scene = make()

    def spoil() -> None:
        (staging,) = scene.images.rglob(".cryo-staging-*")
        (staging / "evil").symlink_to("/etc/passwd")

    scene.at_phase("seal", spoil)

    await scene.error(engine=EngineName.PHASED)

    assert scene.as_before()


async def test_somebody_takes_the_name_meanwhile(make: Make) -> None:
    """Nothing is ever replaced."""
    scene = make()
    path = scene.folder / "mine"
    scene.at_phase("commit", path.mkdir)

    assert isinstance(
        await scene.error(image_path=str(path), engine=EngineName.PHASED), AlreadyExists
    )
    assert scene.as_before()
    assert list(path.iterdir()) == []


async def test_with_exit_a_failed_seal_leaves_it_running(make: Make) -> None:
    """Without an image the task must not end, and it is frozen still: it is thawed."""
    scene = make()

    def spoil() -> None:
        (staging,) = scene.images.rglob(".cryo-staging-*")
        (staging / "evil").mkdir()

    scene.at_phase("seal", spoil)

    await scene.error(engine=EngineName.PHASED, exit=True)

    assert scene.as_before()
    assert "stop" not in scene.events


@pytest.mark.parametrize("when", ("freeze", "save", "thaw", "seal", "commit"))
@pytest.mark.parametrize("paused", (False, True))
async def test_a_mistake_of_our_own_is_rolled_back_as_well(
    make: Make, when: str, paused: bool
) -> None:
    """An unexpected error leaves no process frozen either."""
    scene = make(paused=paused)

    def mistake() -> None:
        raise ZeroDivisionError

    scene.at_phase(when, mistake)

    with pytest.raises(ZeroDivisionError):
        await scene.checkpoint(engine=EngineName.PHASED)
    assert scene.as_before()


@pytest.mark.parametrize("when", ("freeze", "save", "thaw", "seal"))
async def test_a_full_disk_under_the_journal(make: Make, when: str) -> None:
    """The state folder may be full: that fails the checkpoint, and never its undoing."""
    scene = make()

    def full() -> None:
        (scene.folder / "journal.tmp").mkdir()

    scene.at_phase(when, full)

    try:
        await scene.checkpoint(engine=EngineName.PHASED)
    except (OSError, CryoError):
        (scene.folder / "journal.tmp").rmdir()
        assert scene.guest.states == [RUNNING, RUNNING]
    else:
        raise AssertionError


# -- driver 550, which can only toggle ----------------------------------------------------------

OLD = "550.90.07"


async def test_toggles_freeze_and_thaw(make: Make) -> None:
    """One toggle down and one up for each process, and a warning of what is lost."""
    scene = make(driver=OLD)

    result = await scene.checkpoint()

    assert scene.events == ["save checkpointed checkpointed", "saved"]
    assert scene.guest.verbs() == ["toggle"] * 4
    assert scene.guest.states == [RUNNING, RUNNING]
    assert any("can only toggle" in warning for warning in result.warnings)
    assert result.engine == "phased"


async def test_toggles_are_undone(make: Make) -> None:
    """After a save that failed each process is toggled once more, and none twice."""
    scene = make(driver=OLD)
    scene.runsc.fails["checkpoint"] = FULL

    assert await scene.error() is FULL

    assert scene.guest.verbs() == ["toggle"] * 4
    assert scene.as_before()


async def test_a_toggle_that_fails(make: Make) -> None:
    """Only those that were toggled are toggled back."""
    scene = make(Cuda(7), Cuda(8), Cuda(9), driver=OLD)
    scene.guest.faults["toggle", 8] = Fault(answer=NO)

    assert isinstance(await scene.error(), CudaError)

    assert scene.guest.verbs() == ["toggle"] * 4
    assert scene.as_before()


async def test_a_toggle_that_worked_without_an_answer(make: Make) -> None:
    """A tool that was ended may have done its work: the devices show it, not our records."""
    scene = make(driver=OLD, timeouts=Timeouts(detect=5, freeze=0.05, thaw=5, rollback=5))

    def done_all_the_same() -> None:
        scene.guest.processes[1].state = FROZEN

    scene.guest.faults["toggle", 8] = Fault(hang=True, deed=done_all_the_same)

    assert isinstance(await scene.error(), DeadlineExceeded)

    assert scene.as_before()


# -- the rollback itself -------------------------------------------------------------------------


async def test_a_rollback_that_fails_keeps_the_journal(make: Make) -> None:
    """Both errors are reported, and the next owner tries again."""
    scene = make()
    scene.runsc.fails["checkpoint"] = FULL
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)

    error = await scene.error(engine=EngineName.PHASED)

    assert "disk is full; and then the rollback failed" in error.message
    assert scene.guest.states == [RUNNING, FROZEN]
    entry = scene.on_disk()
    assert entry is not None
    assert set(entry.processes) == {"7", "8"}
    assert [path for path in scene.image_folders if "staging" in path.name] == []


async def test_a_rollback_has_a_deadline(make: Make) -> None:
    """A tool that hangs on the way back does not hold the call without end."""
    scene = make(timeouts=Timeouts(detect=5, thaw=60, rollback=0.05))
    scene.runsc.fails["checkpoint"] = FULL
    scene.guest.faults["restore", 8] = Fault(hang=True, times=99)

    error = await asyncio.wait_for(scene.error(engine=EngineName.PHASED), 60)

    assert "rollback failed: it did not end in 0.05 s" in error.message
    assert scene.on_disk() is not None


async def test_a_sandbox_that_died_is_not_thawed(make: Make) -> None:
    """There is no process left to thaw; only the staging is removed."""
    scene = make()
    scene.runsc.fails["checkpoint"] = FULL

    def die() -> None:
        scene.sandbox.kill()
        scene.sandbox.wait()

    scene.at_phase("save", die)

    assert await scene.error(engine=EngineName.PHASED) is FULL

    assert "restore" not in scene.guest.verbs()
    assert scene.image_folders == []
    assert scene.on_disk() is None


# -- callers who leave ---------------------------------------------------------------------------

PHASES = ("preflight", "freeze", "save", "thaw", "seal", "commit")


@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
@pytest.mark.parametrize("paused", (False, True))
@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled_at_the_beginning_of_a_phase(
    make: Make, phase: str, paused: bool, engine: EngineName
) -> None:
    """The task runs as before; one that is being committed is done, and its result returned."""
    scene = make(paused=paused)
    work = asyncio.ensure_future(scene.checkpoint(engine=engine))
    scene.at_phase(phase, work.cancel)

    if phase == "commit":
        assert image_is_whole(scene, (await work).image_path)
        assert scene.on_disk() is None
        assert scene.guest.paused == paused
        assert scene.guest.states == [RUNNING, RUNNING]
        return
    with pytest.raises(asyncio.CancelledError):
        await work
    assert scene.as_before()


@pytest.mark.parametrize("verb", ("get-state", "lock", "checkpoint", "restore", "unlock"))
@pytest.mark.parametrize("again", (0, 1, 3))
async def test_cancelled_in_the_middle_of_a_step(make: Make, verb: str, again: int) -> None:
    """The rollback runs to its end, however often the caller insists."""
    scene = make()
    scene.guest.faults[verb, 8] = Fault(hang=True)
    work = asyncio.ensure_future(scene.checkpoint(engine=EngineName.PHASED))
    await asyncio.wait_for(scene.guest.hanging.wait(), 60)

    work.cancel()
    for _ in range(again):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert scene.as_before()
    assert scene.guest.running_now == 0


@pytest.mark.parametrize("again", (0, 2))
async def test_a_save_that_is_cancelled_is_waited_for(make: Make, again: int) -> None:
    """The sentry finishes what it began: before that nothing is thawed."""
    scene = make()
    scene.runsc.save_gate = asyncio.Event()
    work = asyncio.ensure_future(scene.checkpoint(engine=EngineName.PHASED))
    await asyncio.wait_for(scene.runsc.saving.wait(), 60)

    for _ in range(1 + again):
        work.cancel()
        await asyncio.sleep(0.01)
    assert scene.guest.states == [FROZEN, FROZEN]
    assert not work.done()

    scene.runsc.save_gate.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert scene.events == ["save checkpointed checkpointed", "saved"]
    assert scene.as_before()


async def test_a_cancelled_save_is_kept_when_nothing_else_is_left(make: Make) -> None:
    """The image was cancelled; but a process that does not come back is only in it."""
    scene = make()
    scene.runsc.save_gate = asyncio.Event()
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)
    work = asyncio.ensure_future(scene.error(engine=EngineName.PHASED))
    await asyncio.wait_for(scene.runsc.saving.wait(), 60)
    work.cancel()
    await asyncio.sleep(0.01)
    scene.runsc.save_gate.set()

    assert "is complete" in (await work).message

    (manifest,) = scene.images.rglob("cryo.json")
    assert image_is_whole(scene, str(manifest.parent))
    assert scene.on_disk() is not None


@pytest.mark.parametrize("moment", ("save", "thaw", "rollback"))
async def test_the_sandbox_is_killed(make: Make, moment: str) -> None:
    """Nothing is waited for that a dead sandbox will not do: neither a save nor a thaw."""
    scene = make(timeouts=Timeouts(thaw=600, rollback=600, save=600))
    if moment == "save":
        scene.runsc.save_gate = asyncio.Event()
    else:
        scene.guest.faults["restore", 8] = Fault(hang=True, times=99)
    if moment == "rollback":
        scene.runsc.fails["checkpoint"] = FULL
    work = asyncio.ensure_future(scene.checkpoint(engine=EngineName.PHASED))
    reached = scene.runsc.saving if moment == "save" else scene.guest.hanging
    await asyncio.wait_for(reached.wait(), 60)

    scene.sandbox.kill()
    work.cancel()

    done, _ = await asyncio.wait({work}, timeout=60)
    assert done
    assert work.cancelled() or work.exception() is FULL
    assert scene.on_disk() is None
    assert scene.image_folders == []


async def test_an_image_that_cannot_be_finished_is_left_where_it_is(make: Make) -> None:
    """What is all that is left of a process is not removed; its lock is not held any more."""
    scene = make()
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)
    scene.at_phase("commit", (scene.images / "taken").mkdir)

    error = await scene.error(
        engine=EngineName.PHASED, image_path=str(scene.images / "taken"), seal=False, exit=True
    )

    (staging,) = [path for path in scene.image_folders if path.name.startswith(".cryo-staging-")]
    assert "its image could not be completed" in error.message
    assert str(staging) in error.remedy
    assert (staging / "checkpoint.img").exists()
    assert store.stale_stagings(scene.images) == [staging]
    assert scene.on_disk() is not None


@pytest.mark.parametrize("again", (0, 2))
async def test_cancelled_while_it_is_being_stopped(make: Make, again: int) -> None:
    """With --exit the image is complete and the end has begun: the caller gets the result."""
    scene = make()
    stop, begun, may_end = scene._stop, asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await may_end.wait()
        await stop()

    scene._stop = slow  # type: ignore[method-assign]
    work = asyncio.ensure_future(scene.checkpoint(engine=EngineName.PHASED, exit=True))
    await asyncio.wait_for(begun.wait(), 60)
    for _ in range(1 + again):
        work.cancel()
        await asyncio.sleep(0)
    may_end.set()

    assert image_is_whole(scene, (await work).image_path)
    assert scene.events[-1] == "stop"
    assert scene.sandbox.wait(5) == -9
    assert scene.on_disk() is None


async def test_a_stop_that_fails_after_the_commit(make: Make) -> None:
    """The error says that the image is complete; the journal has the next owner stop the task."""
    scene = make(timeouts=Timeouts(rollback=0.05))

    async def never() -> None:
        await asyncio.Event().wait()

    scene._stop = never  # type: ignore[method-assign]

    error = await scene.error(engine=EngineName.PHASED, exit=True)

    assert isinstance(error, DeadlineExceeded)
    (manifest,) = scene.images.rglob("cryo.json")
    assert error.message == (
        f"the image {manifest.parent} is complete, but task a did not stop in 0.05 s"
    )
    entry = scene.on_disk()
    assert entry is not None
    assert (entry.committed, entry.exit) == (True, True)


@pytest.mark.parametrize(("verb", "phase"), (("lock", "freeze"), ("restore", "thaw")))
async def test_the_whole_has_a_deadline(make: Make, verb: str, phase: str) -> None:
    """The error names the phase, and the task runs as before."""
    scene = make()
    scene.guest.faults[verb, 8] = Fault(hang=True)

    error = await scene.error(engine=EngineName.PHASED, timeout_s=3)

    assert isinstance(error, DeadlineExceeded)
    assert f"did not end in 3 s: it was in phase {phase}" in error.message
    assert scene.as_before()


async def test_a_lock_that_does_not_come(make: Make) -> None:
    """One of three holds it up: it is named, nothing is frozen, all run."""
    scene = make(
        Cuda(7), Cuda(8, "stuck"), Cuda(9), timeouts=Timeouts(lock=0.05), driver="555.42.02"
    )
    scene.guest.faults["lock", 8] = Fault(hang=True)

    error = await scene.error(engine=EngineName.PHASED)

    assert isinstance(error, DeadlineExceeded)
    assert "process 8 (stuck)" in error.message
    assert scene.as_before()
    assert "checkpoint" not in scene.guest.verbs()


async def test_a_tool_that_hangs_in_runscs_own_engine(make: Make) -> None:
    """It is ended by us, the save fails, and the error says who and how long."""
    scene = make(timeouts=Timeouts(freeze=0.02, rollback=5, detect=5, thaw=5))
    gate = scene.runsc.save_gate = asyncio.Event()
    scene.runsc.half = b""
    scene.runsc.fails["checkpoint"] = RunscError(
        "checkpoint", 128, '"cuda-checkpoint --toggle for PID 7 in container" failed with status 9'
    )
    work = asyncio.ensure_future(scene.error(engine=EngineName.BUILTIN))
    await asyncio.wait_for(scene.runsc.saving.wait(), 60)
    await asyncio.sleep(0.005)
    scene.guest.execs = (GuestProcess(pid=50, parent=0, command=Path(TOOL).name),)
    async with asyncio.timeout(60):
        while not scene.guest.ended:  # noqa: ASYNC110 - the guard sets no event
            await asyncio.sleep(0.005)
    gate.set()

    error = await work

    assert isinstance(error, DeadlineExceeded)
    assert "process 7 (train) did not end in 0.02 s" in error.message
    assert scene.as_before()


def test_the_device_of_the_fake_is_a_real_name() -> None:
    """Detection looks for names that begin so."""
    assert DEVICE.startswith("/dev/nvidia")


async def test_a_verify_cache_that_fails_after_the_commit(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is complete, and the task is stopped as was asked: it is a warning, no more."""
    scene = make()

    def fail(*_: object) -> bool:
        message = "read the image: Input/output error"
        raise CryoError(message)

    monkeypatch.setattr(VerifyCache, "remember_image", fail)

    result = await scene.checkpoint(engine=EngineName.PHASED, exit=True)

    assert scene.events[-1] == "stop"
    assert scene.on_disk() is None
    assert any("could not be recorded" in text for text in result.warnings)


async def test_a_quota_without_space(make: Make) -> None:
    """A checkpoint for which no space can be made fails before it changes anything."""
    scene = make(Cuda(7, "train"))
    scene.store = Store(quota="1B")

    error = await scene.error()

    assert isinstance(error, ResourceExhausted)
    assert "a quota of 1 B" in error.message
    assert scene.as_before()


async def test_a_quota_that_another_has_used_up_meanwhile(make: Make) -> None:
    """Two that found space for one do not both go on: the sizes of both are known by then."""
    scene = make(Cuda(7, "train"))
    scene.store = Store(quota="100MiB")
    began: list[Staging] = []

    def begin(point: str) -> None:
        if point == "image.begin:before" and not began:
            failpoints.arm(None)
            began.append(staging.begin(staging.name_staging(scene.images / "other", 90 << 20)))

    failpoints.arm(begin)
    try:
        error = await scene.error()
    finally:
        failpoints.arm(None)

    began[0].discard()
    assert isinstance(error, ResourceExhausted)
    assert scene.as_before()
