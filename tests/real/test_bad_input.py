"""What bad input gets: a clear error with the right class, and nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.client import Client
from shim.cuda import inventory
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    HostMismatch,
    IllegalState,
    ImageCorrupt,
    InvalidArgument,
    InvalidBundle,
    NotFound,
    Unimplemented,
)
from shim.image import manifest as manifests
from shim.image.manifest import Build, Manifest
from shim.image.side_files import is_side_file
from shim.model import CudaMode, EngineName, RestoreOptions, Verify
from shim.simgpu.fault import Fault, Kind
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import Background, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)

# What is refused and why is in tests/unit; here it reaches the client and leaves nothing behind.
UNSAFE = ("../a", "", "a*")
JOB = "job"


@pytest.fixture(scope="module")
def kept(machine: Rig) -> Iterator[Path]:
    """Give an image of a small container, for all tests here; it lies outside the usual folder."""
    machine.sleeper("origin")
    made = machine.checkpoint("origin", exit=True)
    machine.client.delete("origin")
    folder = machine.sim.folder / "kept"
    shutil.move(made.image_path, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def image(kept: Path, tmp_path: Path) -> Path:
    """Give a copy of that image, to be spoilt."""
    return Path(shutil.copytree(kept, tmp_path / "image"))


@pytest.fixture
def job(rig: Rig) -> Iterator[Rig]:
    """Give a machine on which a task runs, that must not notice anything."""
    rig.sleeper(JOB)
    before = rig.client.state(JOB)
    yield rig
    assert [view.id for view in rig.client.list()] == [JOB]
    assert rig.client.state(JOB) == before
    assert rig.client.pids(JOB) == [1]
    assert rig.client.images() == []


# Tasks and ids.


def test_unknown_task(job: Rig) -> None:
    """Every operation on a task that does not exist says so."""
    client = job.client
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.start("no"),
        lambda: client.state("no"),
        lambda: client.wait("no"),
        lambda: client.kill("no", 9),
        lambda: client.pause("no"),
        lambda: client.resume("no"),
        lambda: client.pids("no"),
        lambda: client.stats("no"),
        lambda: client.update("no", {}),
        lambda: client.close_io("no"),
        lambda: client.resize_pty("no", 1, 1),
        lambda: client.exec("no", "x", {"args": ["x"]}),
        lambda: client.delete("no"),
        lambda: client.checkpoint("no"),
        lambda: client.state(JOB, "no"),
        lambda: client.kill(JOB, 9, exec_id="no"),
        lambda: client.delete(JOB, "no"),
        lambda: client.wait(JOB, "no"),
        lambda: client.start(JOB, "no"),
        # The beginning of an id is no id, though runsc would take it for one.
        lambda: client.kill("jo", 9),
        lambda: client.delete("j"),
    )
    for call in calls:
        assert "no" in refused(NotFound, call).message


def test_duplicate_task(job: Rig) -> None:
    """An id that is taken is taken, for create and restore alike, also in the other's words."""
    bundle = job.bundle("other", ["/bin/true"])
    refused(AlreadyExists, lambda: job.client.create(JOB, str(bundle)))


def test_restore_into_a_running_id(job: Rig, kept: Path) -> None:
    """An image does not come back over a task."""
    refused(AlreadyExists, lambda: job.restore(JOB, kept))


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_ids(job: Rig, kept: Path, name: str) -> None:
    """An id that is no safe file name is refused, for tasks, execs and namespaces."""
    bundle = str(job.bundle("other", ["/bin/true"]))
    process = {"args": ["/bin/true"], "cwd": "/"}
    refused(InvalidArgument, lambda: job.client.create(name, bundle))
    refused(InvalidArgument, lambda: job.restore(name, kept))
    if name:
        refused(InvalidArgument, lambda: job.client.exec(JOB, name, process))


def test_checkpoint_of_a_stopped_task(rig: Rig) -> None:
    """What has exited cannot be saved."""
    rig.program(JOB, "/bin/true")
    rig.client.wait(JOB)
    error = refused(IllegalState, lambda: rig.checkpoint(JOB))
    assert "stopped" in error.message


def test_checkpoint_of_a_created_task(rig: Rig) -> None:
    """What has not begun cannot be saved, and can be started afterwards."""
    rig.client.create(JOB, str(rig.bundle(JOB, ["/bin/sleep", "1000"])))
    refused(IllegalState, lambda: rig.checkpoint(JOB))
    rig.client.start(JOB)
    assert rig.client.state(JOB).state is TaskState.RUNNING


def test_task_that_is_being_checkpointed_is_busy(rig: Rig) -> None:
    """While a checkpoint is under way what else moves the task is refused, but for KILL."""
    rig.workload(JOB)
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=1.5))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.checkpoint(JOB))
    rig.sim.until_called("checkpoint")

    client = rig.client
    calls: tuple[Callable[[], object], ...] = (
        lambda: rig.checkpoint(JOB),
        lambda: client.pause(JOB),
        lambda: client.kill(JOB, 15),
        lambda: client.delete(JOB),
        lambda: rig.execute(JOB, "x", "/bin/true"),
    )
    for call in calls:
        refused(Busy, call)
    assert client.state(JOB).state is TaskState.CHECKPOINTING
    assert not under_way.done

    rig.sim.faults()
    under_way.result()
    assert len(client.images()) == 1
    assert rig.fine(JOB)


# Bundles.


@pytest.mark.parametrize(
    "content",
    (None, "{"),
)
def test_broken_config_json(job: Rig, tmp_path: Path, content: str | None) -> None:
    """A config.json that is missing or broken is the bundle's fault."""
    if content is not None:
        (tmp_path / "config.json").write_text(content, "utf-8")
    refused(InvalidBundle, lambda: job.client.create("new", str(tmp_path)))


@pytest.mark.parametrize(
    "change",
    (
        {"root": {"path": "/no/such/folder"}},
        {"process": {"cwd": "/", "args": ["x"], "user": {"uid": "root"}}},
        {"mounts": [{"destination": "/dev/x", "type": "bind", "source": "/no/such"}]},
    ),
)
def test_spec_without_what_is_needed(job: Rig, change: dict[str, Any]) -> None:
    """A spec that cannot be run is refused before or by runsc, always as the bundle's fault."""
    bundle = job.bundle("new", ["/bin/true"])
    with job.edited(bundle) as spec:
        spec.update(change)
    refused(InvalidBundle, lambda: job.client.create("new", str(bundle)))


def test_bundle_that_is_not_there(job: Rig) -> None:
    """A missing folder is a missing bundle; a relative one can never work."""
    refused(InvalidBundle, lambda: job.client.create("new", "/no/such/bundle"))
    refused(InvalidArgument, lambda: job.client.create("new", "bundle"))
    refused(InvalidArgument, lambda: job.client.create("new", ""))


def test_program_that_is_not_there(rig: Rig) -> None:
    """The start says so; the task can be deleted."""
    refused(InvalidArgument, lambda: rig.program("new", "/no/such/program"))
    rig.client.delete("new")
    assert rig.client.list() == []


# Image paths.


def test_relative_image_path(job: Rig) -> None:
    """An image path begins at the root."""
    path = "../image"
    refused(InvalidArgument, lambda: job.checkpoint(JOB, image_path=path))
    refused(InvalidArgument, lambda: job.restore("new", path))
    refused(InvalidArgument, lambda: job.client.verify(path))


def test_image_path_that_exists(job: Rig, tmp_path: Path) -> None:
    """Nothing is ever replaced: no folder, file or link."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine", "utf-8")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        path = str(tmp_path / name)
        refused(AlreadyExists, partial(job.checkpoint, JOB, image_path=path))
    assert (tmp_path / "file").read_text("utf-8") == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "link"]


def test_image_path_that_leaves_its_folder(job: Rig, tmp_path: Path) -> None:
    """Neither by dots nor through a link."""
    images = job.sim.folder / "images"
    (images / "link").symlink_to(tmp_path)
    try:
        for path in (f"{images}/../out", f"{images}/link/out", f"{images}/a/../../out"):
            refused(InvalidArgument, partial(job.checkpoint, JOB, image_path=path))
            refused(InvalidArgument, partial(job.restore, "new", path))
    finally:
        (images / "link").unlink()
    assert list(tmp_path.iterdir()) == []


def test_image_path_under_a_file(job: Rig, tmp_path: Path) -> None:
    """A file cannot hold an image."""
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "image")
    refused(InvalidArgument, lambda: job.checkpoint(JOB, image_path=path))


def test_no_image(job: Rig, tmp_path: Path) -> None:
    """A folder that is not there is not found; one that is no image cannot be trusted."""
    refused(NotFound, lambda: job.restore("new", tmp_path / "no"))
    refused(NotFound, lambda: job.client.verify(str(tmp_path / "no")))
    refused(InvalidArgument, lambda: job.restore("new", ""))
    refused(ImageCorrupt, lambda: job.restore("new", tmp_path))


# Spoilt images.


def _missing(image: Path, name: str) -> None:
    (image / name).unlink()


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def _middle_byte(image: Path, name: str) -> None:
    _flip(image / name, (image / name).stat().st_size // 2)


@pytest.mark.parametrize("spoil", (_missing, _middle_byte))
def test_spoilt_file(job: Rig, image: Path, spoil: Callable[[Path, str], None]) -> None:
    """Whatever happened to whichever file: verify and restore say which, and nothing is made."""
    whole = image.with_name("whole")
    image.rename(whole)
    for file in sorted(path.name for path in whole.iterdir()):
        if is_side_file(file):
            continue
        shutil.copytree(whole, image)
        if not (image / file).stat().st_size:
            shutil.rmtree(image)
            continue
        spoil(image, file)
        for mode in (Verify.FULL, Verify.AUTO):
            error = refused(ImageCorrupt, partial(job.client.verify, str(image), mode))
            assert file in error.message
            refused(ImageCorrupt, partial(job.restore, "new", image, verify=mode))
        shutil.rmtree(image)
    assert job.client.verify(str(whole))["task"] == "origin"


def test_a_byte_of_the_manifest(job: Rig, image: Path) -> None:
    """A change of cryo.json is detected, even with verify=none."""
    path = image / manifests.NAME
    size = path.stat().st_size
    for at in range(0, size, max(1, size // 5)):
        _flip(path, at)
        refused(ImageCorrupt, lambda: job.restore("new", image, verify=Verify.NONE))
        _flip(path, at)
    assert job.client.verify(str(image))["task"] == "origin"


def test_file_that_does_not_belong(job: Rig, image: Path) -> None:
    """A file more is no image that we made."""
    (image / "more.img").touch()
    error = refused(ImageCorrupt, lambda: job.restore("new", image))
    assert "more.img" in error.message


# Images of elsewhere.


def edit(image: Path, **changes: Any) -> None:
    """Change the manifest of an image as if it had been sealed so."""
    path = image / manifests.NAME
    whole: Manifest = manifests.decode(path.read_bytes(), str(image))
    path.write_bytes(manifests.encode(msgspec.structs.replace(whole, **changes))[1])


@pytest.mark.parametrize(
    ("changes", "named"),
    (
        ({"arch": "riscv64"}, "riscv64"),
        ({"cpu_features": ("amx_tile", "teleport")}, "teleport"),
        ({"runsc": Build(version="release-20991231.0", digest="0" * 64)}, "release-20991231.0"),
        ({"format": 99}, "99"),
    ),
)
def test_image_of_another_machine(
    job: Rig, image: Path, changes: dict[str, Any], named: str
) -> None:
    """What the image needs and this host lacks is named, by verify and by restore."""
    edit(image, **changes)
    for call in (
        lambda: job.client.verify(str(image)),
        lambda: job.restore("new", image),
        lambda: job.restore("new", image, verify=Verify.NONE),
    ):
        assert named in refused(HostMismatch, call).message


def test_image_of_another_driver_or_gpu(rig: Rig, tmp_path: Path) -> None:
    """GPU state needs the very driver, and GPUs of the same kind."""
    rig.workload(JOB)
    made = rig.checkpoint(JOB, image_path=str(tmp_path / "made"))
    here = inventory.read(str(rig.sim.folder / "nvidia")).gpus
    others = (msgspec.structs.replace(here[0], model="NVIDIA B300"),)
    changes: tuple[dict[str, Any], ...] = (
        {"driver": "610.57.04"},
        {"gpus": others},
        {"gpus": here * 2},
    )
    for index, change in enumerate(changes):
        copy = Path(shutil.copytree(made.image_path, tmp_path / f"copy{index}"))
        edit(copy, **change)
        refused(HostMismatch, partial(rig.restore, "new", copy))
    assert rig.fine(JOB)
    assert len(rig.client.list()) == 1


def test_image_of_the_other_runsc(runsc_new: RunscBuild, runsc_old: RunscBuild) -> None:
    """An image made by one version is refused by the other, by name, before anything is made."""
    with machine_with(runsc_new) as new, machine_with(runsc_old) as old:
        for creator, taker in ((new, old), (old, new)):
            creator.sleeper(JOB)
            path = creator.sim.folder / "foreign"
            creator.checkpoint(JOB, image_path=str(path), exit=True)
            error = refused(HostMismatch, partial(taker.restore, "copy", path))
            assert "runsc" in error.message
            assert taker.client.list() == []
            assert taker.leftovers() == []
            creator.clear()


# What this runsc, task or image cannot do.


def test_restore_over_another_bundle(job: Rig, kept: Path) -> None:
    """A bundle that is not the one that was saved is refused, with what differs."""
    bundle = job.bundle("other", ["/bin/sleep", "5"])
    error = refused(InvalidArgument, lambda: job.restore("new", kept, bundle=str(bundle)))
    assert "process.args" in error.message


@pytest.mark.every_combination
def test_what_cannot_be_asked_for(job: Rig, kept: Path) -> None:
    """CUDA where there is none, an engine or a way of loading that this runsc has not."""
    errors: list[tuple[type[CryoError], Callable[[], object]]] = [
        (InvalidArgument, lambda: job.restore("new", kept, device_map={"a": "b"}))
    ]
    if not job.build.has_builtin:
        errors.append((Unimplemented, lambda: job.restore("new", kept, background=True)))
    for kind, call in errors:
        refused(kind, call)
    with pytest.raises(CryoError, match="no GPU"):
        job.checkpoint(JOB, cuda=CudaMode.REQUIRE)


@pytest.mark.parametrize("runsc", ("old",), indirect=True)
def test_engine_that_this_runsc_has_not(rig: Rig) -> None:
    """The built-in engine on 20240729 is refused before anything is touched."""
    rig.workload(JOB)
    refused(Unimplemented, lambda: rig.checkpoint(JOB, EngineName.BUILTIN))
    assert rig.fine(JOB)
    assert rig.client.images() == []


def test_namespaces_do_not_see_each_other(rig: Rig, kept: Path) -> None:
    """The same id in two namespaces is two tasks."""
    rig.sleeper(JOB)
    with Client(rig.sim.address, "other") as other:
        assert other.list() == []
        refused(NotFound, lambda: other.kill(JOB, 9))
        other.restore(JOB, RestoreOptions(image_path=str(kept)))
        other.kill(JOB, 9)
        assert other.wait(JOB).status == 137
        other.delete(JOB)
    assert rig.client.state(JOB).state is TaskState.RUNNING
