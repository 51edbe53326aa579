"""After the load: what may be asked of a restore, and every recorded process awake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Timeouts
from shim.errors import (
    CryoError,
    CudaError,
    DeadlineExceeded,
    HostMismatch,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    RunscError,
    Unimplemented,
)
from shim.image.manifest import Build, ImageFile, Manifest
from shim.image.verify import HeldImage
from shim.model import (
    CheckpointOptions,
    CudaProcess,
    CudaState,
    Direct,
    EngineName,
    RestoreOptions,
    Verify,
)
from shim.transaction import preflight, restore
from shim.transaction.journal import Operation
from shim.transaction.restore import check_image, check_options
from tests.unit.fakes_guest import Fault, failed
from tests.unit.fakes_runsc import capabilities
from tests.unit.fakes_target import Make, Scene, in_states
from tests.unit.image_helpers import manifest, sealed

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks that were just loaded, with a restore open."""
    with in_states(tmp_path) as plain:

        def scene(*states: CudaState, **more: Any) -> Scene:
            made = plain(*states, **more)
            made.journal.open(Operation.RESTORE, "/i")
            return made

        yield scene


def image(scene: Scene, engine: EngineName = EngineName.PHASED) -> Manifest:
    """Make the manifest of an image with this task's processes."""
    processes = tuple(CudaProcess(pid=p.pid, name=p.name) for p in scene.guest.processes)
    return manifest(engine=engine.value, processes=processes, driver="580.65.06")


async def thaw_restored(
    scene: Scene,
    engine: EngineName = EngineName.PHASED,
    *,
    device_map: dict[str, str] | None = None,
    background: bool = False,
) -> None:
    """Wake the recorded processes."""
    await restore.thaw_restored(
        scene.target,
        image(scene, engine),
        scene.updates.append,
        device_map=device_map or {},
        background=background,
    )


async def test_phased_thaws_by_itself(make: Make) -> None:
    """Every recorded process is brought to running, with the device map."""
    scene = make(FROZEN, FROZEN)

    await thaw_restored(scene, device_map={"GPU-a": "GPU-b"})

    assert scene.guest.states == [RUNNING, RUNNING]
    assert scene.guest.verbs() == ["restore", "restore", "unlock", "unlock"]
    maps = [argv for argv in scene.guest.calls if "--device-map" in argv]
    assert len(maps) == 2
    assert scene.events == []


async def test_a_plain_image_needs_no_thaw(make: Make) -> None:
    """No process was recorded: nothing is run inside."""
    scene = make()

    await restore.thaw_restored(
        scene.target,
        manifest(engine="", processes=()),
        scene.updates.append,
        device_map={},
        background=False,
    )

    assert scene.guest.calls == []


async def test_builtin_waits_for_runsc_first(make: Make) -> None:
    """Runsc toggles after its restore has returned: that is waited for, then every state read."""
    scene = make(RUNNING, RUNNING)

    await thaw_restored(scene, EngineName.BUILTIN)

    assert scene.events == ["wait_restore"]
    assert scene.guest.verbs() == []
    assert len(scene.guest.calls) == 2


async def test_builtin_that_did_not_thaw(make: Make) -> None:
    """That runsc returned is no success."""
    scene = make(RUNNING, FROZEN)

    with pytest.raises(CudaError, match=r"did not thaw process 8"):
        await thaw_restored(scene, EngineName.BUILTIN)


async def test_builtin_explains_runscs_words(make: Make) -> None:
    """Too little GPU memory is reported as that, with the process's name."""
    scene = make(FROZEN)
    scene.runsc.fails["wait_restore"] = RunscError(
        "wait", 128, "cuda-checkpoint --toggle for PID 7 in container: out of memory"
    )

    with pytest.raises(ResourceExhausted, match=r"process 7 \(p7\)"):
        await thaw_restored(scene, EngineName.BUILTIN)


@pytest.mark.parametrize(
    ("words", "kind"), (("out of memory", ResourceExhausted), ("invalid device", CudaError))
)
async def test_a_process_that_cannot_be_restored(
    make: Make, words: str, kind: type[CryoError]
) -> None:
    """The error names it."""
    scene = make(FROZEN, FROZEN)
    scene.guest.faults["restore", 8] = Fault(answer=failed(words))

    with pytest.raises(kind, match=rf"process 8 \(p8\).*{words}"):
        await thaw_restored(scene)


async def test_a_tool_that_hangs(make: Make) -> None:
    """The thaw has a deadline."""
    scene = make(FROZEN, timeouts=Timeouts(thaw=0.02))
    scene.guest.faults["restore", 7] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded, match=r"process 7 \(p7\)"):
        await thaw_restored(scene)


# -- options -------------------------------------------------------------------------------------

PHASED_IMAGE = manifest(engine="phased")
BUILTIN_IMAGE = manifest(engine="builtin")
PLAIN_IMAGE = manifest(engine="", processes=())


def options(**more: Any) -> RestoreOptions:
    """Ask for a restore."""
    return RestoreOptions(image_path="/i", **more)


def test_what_any_runsc_can_do() -> None:
    """Without options there is nothing to refuse."""
    for able in (capabilities(new=True), capabilities(new=False)):
        check_options(PHASED_IMAGE, options(), able)
    check_options(PHASED_IMAGE, options(background=True, direct=Direct.ON), capabilities(new=True))
    check_options(PHASED_IMAGE, options(device_map={"a": "b"}), capabilities(new=False))


@pytest.mark.parametrize(
    ("made", "asked", "new", "kind"),
    (
        (PHASED_IMAGE, {"background": True}, False, Unimplemented),
        (BUILTIN_IMAGE, {"device_map": {"a": "b"}}, True, Unimplemented),
        (PLAIN_IMAGE, {"device_map": {"a": "b"}}, True, InvalidArgument),
    ),
)
def test_what_cannot_be_done(
    made: Manifest, asked: dict[str, Any], new: bool, kind: type[CryoError]
) -> None:
    """Each no has a way past."""
    with pytest.raises(kind) as caught:
        check_options(made, options(**asked), capabilities(new=new))
    assert caught.value.remedy


# -- image and host ------------------------------------------------------------------------------


async def test_an_image_is_verified(make: Make) -> None:
    """Whole it is let through; with one flipped byte it is not; where there is none, not found."""
    scene = make()
    sealed(scene.images / "good")
    found = await check_image(
        HeldImage(scene.images / "good"), Verify.AUTO, scene.config, scene.updates.append
    )
    assert found.task == "t1"

    damaged = scene.images / "bad"
    sealed(damaged)
    pages = damaged / "pages.img"
    pages.write_bytes(b"\x08" + pages.read_bytes()[1:])
    with pytest.raises(ImageCorrupt):
        await check_image(HeldImage(damaged), Verify.AUTO, scene.config, scene.updates.append)
    with pytest.raises(NotFound):
        await check_image(
            HeldImage(scene.images / "none"), Verify.AUTO, scene.config, scene.updates.append
        )


async def test_an_image_of_another_runsc_or_driver(make: Make) -> None:
    """Every difference is named at once."""
    scene = make()
    other = manifest(
        runsc=Build(version="release-20200101.0"), arch="mips", driver="1.2.3", engine="phased"
    )

    with pytest.raises(HostMismatch) as caught:
        await restore.check_host(other, scene.config, capabilities())
    for word in ("runsc", "architecture", "mips", "1.2.3"):
        assert word in caught.value.message


@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
async def test_a_process_that_is_gone_fails_the_restore(make: Make, engine: EngineName) -> None:
    """Recorded processes must be there; the error names those that are not."""
    scene = make(*(FROZEN if engine is EngineName.PHASED else RUNNING for _ in range(2)))
    saved = image(scene, engine)
    scene.guest.gone(8)()

    with pytest.raises(CudaError, match=r"process 8 \(p8\)") as caught:
        await restore.thaw_restored(
            scene.target, saved, scene.updates.append, device_map={}, background=False
        )

    assert caught.value.remedy


async def test_a_dropped_process_is_passed_over(make: Make) -> None:
    """It is not expected, so it is not looked for."""
    scene = make(FROZEN, FROZEN)
    first, second = image(scene).processes
    saved = manifest(
        engine="phased",
        processes=(first, msgspec.structs.replace(second, dropped=True)),
        driver="580.65.06",
    )

    await restore.thaw_restored(
        scene.target, saved, scene.updates.append, device_map={}, background=False
    )

    assert scene.guest.states == [RUNNING, FROZEN]


@pytest.mark.parametrize("compress", (False, True))
def test_an_image_larger_than_memory_is_refused(
    compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both numbers are in the error; a compressed image is judged by the size that was noted."""
    files = (ImageFile(name="pages.img", size_bytes=1 if compress else 3 << 30),)
    made = manifest(files=files, memory_bytes=3 << 30, options=CheckpointOptions(compress=compress))
    monkeypatch.setattr(preflight, "available_bytes", lambda **_swap: 2 << 30)

    with pytest.raises(ResourceExhausted, match=r"takes 3072 MiB .* host has 2048 MiB"):
        check_options(made, options(), capabilities(new=True))


def test_another_image_than_the_one_meant_is_refused() -> None:
    """A digest that was given is that of the manifest, or nothing is restored."""
    made = manifest(digest="aa")

    check_options(made, options(digest="aa"), capabilities(new=True))
    with pytest.raises(ImageCorrupt, match="has digest aa, not bb"):
        check_options(made, options(digest="bb"), capabilities(new=True))
