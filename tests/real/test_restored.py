"""A restored task is a task like any: its end, its files, its names; and races for one id."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shim.errors import AlreadyExists, CryoError, ImageCorrupt, InvalidArgument, NotFound
from shim.model import CheckpointOptions, Direct, RestoreOptions
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.real.helpers_rig import WAIT_S, Background, Output, Rig, at_once, refused

pytestmark = pytest.mark.timeout(120)


def waiting(rig: Rig, name: str, folder: Path, script: str, **root: bool) -> None:
    """Start a script that sees a folder of the host at /dev/host."""
    bundle = rig.bundle(name, ["/bin/sh", "-c", script])
    with rig.edited(bundle) as spec:
        mount = {"destination": "/dev/host", "type": "bind", "source": str(folder)}
        spec["mounts"].append({**mount, "options": ["bind", "ro"]})
        spec["root"].update(root)
    rig.client.create(name, str(bundle))
    rig.client.start(name)


def test_its_exit_status_is_its_own(rig: Rig, tmp_path: Path) -> None:
    """A copy ends with the status that its program gives, also by a signal, also at once."""
    waiting(rig, "job", tmp_path, "until [ -e /dev/host/go ]; do sleep 0.05; done; exit 7")
    image = rig.checkpoint("job", exit=True).image_path
    rig.restore("later", image)
    rig.restore("killed", image)
    assert rig.client.state("later").state is TaskState.RUNNING
    rig.client.kill("killed", signal.SIGKILL)
    (tmp_path / "go").touch()
    rig.restore("soon", image)

    ends = {name: rig.client.wait(name).status for name in ("later", "killed", "soon")}
    assert ends == {"later": 7, "killed": 137, "soon": 7}
    view = rig.client.list()[-1]
    assert (view.id, view.restored_from) == ("soon", image)


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_an_application_learns_that_it_was_restored(rig: Rig, tmp_path: Path) -> None:
    """A read of /proc/gvisor/checkpoint ends with the save, and says on which side of it one is."""
    script = "read -r side </proc/gvisor/checkpoint; echo $side >/side; while :; do sleep 1; done"
    waiting(rig, "job", tmp_path, script, readonly=False)

    image = rig.checkpoint("job").image_path
    rig.restore("copy", image)

    wait_until(lambda: "resume" in _cat(rig, "job", "/side"), "the original's word", WAIT_S)
    wait_until(lambda: "restore" in _cat(rig, "copy", "/side"), "the copy's word", WAIT_S)


def test_what_was_written_comes_back(rig: Rig, tmp_path: Path) -> None:
    """Files on a writable root filesystem are in the image; the host's own are not touched."""
    script = "echo kept >/kept; echo on; while :; do sleep 0.1; done"
    waiting(rig, "job", tmp_path, script, readonly=False)
    wait_until(lambda: "kept" in _cat(rig, "job", "/kept"), "the file", WAIT_S)
    image = rig.checkpoint("job", exit=True).image_path
    rig.restore("copy", image)

    assert _cat(rig, "copy", "/kept") == "kept\n"
    assert not Path("/kept").exists()


def _cat(rig: Rig, name: str, path: str) -> str:
    return rig.guest.exec(name, ["/bin/cat", path]).out


def test_it_can_be_paused_and_entered(rig: Rig) -> None:
    """Everything that a task can do, a restored one can."""
    rig.sleeper("job")
    image = rig.checkpoint("job", exit=True).image_path
    output = Output(rig, "restored")
    rig.restore("copy", image)
    rig.execute("copy", "e", "/bin/echo", "inside", stdio=output.stdio)
    assert rig.client.wait("copy", "e").status == 0
    assert output.text() == "inside\n"
    rig.client.pause("copy")
    rig.client.resume("copy")
    assert rig.client.pids("copy") == [1]
    rig.crash()
    assert rig.client.state("copy").state is TaskState.RUNNING
    assert rig.end("copy").status == 137


# Restore by Create and Start, as containerd does it.


def test_start_restores_what_create_named(rig: Rig) -> None:
    """With an image, Create makes nothing yet and Start brings it back."""
    rig.workload("job")
    image = rig.checkpoint("job", exit=True).image_path
    bundle = str(rig.sim.folder / "bundles" / "job")

    assert rig.client.create("copy", bundle, checkpoint=image) == 0
    assert rig.client.state("copy").state is TaskState.CREATED
    assert rig.client.start("copy") > 0
    assert rig.fine("copy")


def test_start_of_a_spoilt_image(rig: Rig) -> None:
    """The task has exited then, and can be deleted."""
    rig.sleeper("job")
    image = Path(rig.checkpoint("job", exit=True).image_path)
    bundle = str(rig.sim.folder / "bundles" / "job")
    rig.client.create("copy", bundle, checkpoint=str(image))
    with (image / "checkpoint.img").open("ab") as file:
        file.write(b"x")

    refused(ImageCorrupt, lambda: rig.client.start("copy"))

    assert rig.client.state("copy").state is TaskState.STOPPED
    rig.client.delete("copy")
    refused(ImageCorrupt, lambda: rig.restore("copy", image))
    refused(NotFound, lambda: rig.client.state("copy"))


def test_created_with_an_image_and_never_started(rig: Rig) -> None:
    """It can be killed, waited for and deleted like any that was created."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    bundle = str(rig.sim.folder / "bundles" / "job")
    rig.client.create("copy", bundle, checkpoint=image)
    rig.crash()
    assert rig.client.state("copy").state is TaskState.CREATED
    rig.client.kill("copy", signal.SIGKILL)
    assert rig.client.wait("copy").status == 137
    rig.client.delete("copy")


@pytest.mark.every_combination
@pytest.mark.parametrize("option", ("direct", "background"))
def test_ways_of_loading(rig: Rig, engine: str, option: str) -> None:
    """Direct and background restores come back whole, where this runsc has them."""
    if option == "background" and not rig.build.has_builtin:
        return
    rig.workload("job", resident_mib=32)
    image = rig.checkpoint("job", engine, exit=True, direct=option == "direct").image_path
    if option == "direct":
        rig.restore("copy", image, direct=Direct.ON)
    else:
        rig.restore("copy", image, background=True)

    assert rig.fine("copy")


# Races.


def test_one_of_two_gets_the_id(rig: Rig) -> None:
    """Of two restores or creates of the same id at the same moment, one works."""
    rig.sleeper("job")
    image = rig.checkpoint("job", exit=True).image_path
    bundle = str(rig.bundle("made", ["/bin/sleep", "1000"]))
    races = (
        partial(_outcome, lambda: rig.restore("copy", image)),
        partial(_outcome, lambda: rig.client.create("made", bundle)),
    )
    for race in races:
        assert sorted(at_once(race, race, race)) == ["AlreadyExists", "AlreadyExists", "done"]
    assert [view.id for view in rig.client.list()] == ["copy", "job", "made"]


def _outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except CryoError as error:
        return type(error).__name__
    return "done"


def test_tasks_are_saved_side_by_side(rig: Rig) -> None:
    """Checkpoints of different tasks do not wait for each other, nor mix."""
    names = ("a", "ab")
    for name in names:
        rig.workload(name, key=name)
    made = at_once(*(partial(rig.checkpoint, name) for name in names))
    for name, result in zip(names, made, strict=True):
        rig.restore(f"copy-{name}", result.image_path)
    for name in names:
        status = rig.sim.verify(rig.guest, f"copy-{name}")
        assert status.intact
        assert status.node == name
        assert rig.fine(name)


def test_task_that_dies_in_a_checkpoint(rig: Rig) -> None:
    """The checkpoint fails, the task has its true end, and no staging is left."""
    rig.workload("job", processes=2)
    pid = rig.client.state("job").pid
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=2.0))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.checkpoint("job"))
    rig.sim.until_called("checkpoint")
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(CryoError):
        under_way.result()
    assert rig.client.wait("job").status == 137
    assert rig.client.images() == []
    rig.client.delete("job")


def test_task_that_dies_in_a_restore(rig: Rig) -> None:
    """The restore fails, nothing is left of the task, and the image is fine."""
    rig.workload("job")
    image = rig.checkpoint("job", "phased", exit=True).image_path
    rig.client.delete("job")
    rig.sim.faults(Fault(action="restore", kind=Kind.SLOW, seconds=2.0))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.restore("copy", image))
    rig.sim.until_called("restore")
    os.kill(rig.client.state("copy").pid, signal.SIGKILL)

    with pytest.raises(CryoError):
        under_way.result()
    assert rig.client.list() == []
    rig.sim.faults()
    rig.restore("copy", image)
    assert rig.fine("copy")


# Names.


def test_longest_names(rig: Rig) -> None:
    """Ids may be as long as containerd's; runsc's sockets then have too long a path."""
    long = "n" * 75
    rig.sleeper(f"{long}1")
    rig.execute(f"{long}1", "e" * 76, "/bin/true")
    assert rig.client.wait(f"{long}1", "e" * 76).status == 0
    made = rig.checkpoint(f"{long}1")
    rig.restore(f"{long}2", made.image_path)
    assert rig.client.pids(f"{long}2") == [1]
    assert rig.end(f"{long}1").status == 137
    assert rig.end(f"{long}2").status == 137


@pytest.mark.parametrize("name", ("with space", "komma,gleich=x", "über", "-dash", "a%20b", "a:b"))
def test_any_image_path(rig: Rig, tmp_path: Path, name: str) -> None:
    """An image may lie wherever a folder may."""
    rig.sleeper("job")
    path = tmp_path / "deep" / "er" / name
    made = rig.checkpoint("job", image_path=str(path))
    assert made.image_path == str(path)
    assert rig.client.verify(str(path))["digest"] == made.digest
    rig.restore("copy", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.iterdir()} == {0o600}
    refused(InvalidArgument, lambda: rig.client.remove(str(path)))
    shutil.rmtree(tmp_path / "deep")


def test_same_path_twice(rig: Rig, tmp_path: Path) -> None:
    """Of two checkpoints to one path at the same time one is made, whole."""
    for name in ("a", "b"):
        rig.sleeper(name)
    options = CheckpointOptions(image_path=str(tmp_path / "image"))
    races = [partial(_outcome, partial(rig.client.checkpoint, n, options)) for n in ("a", "b")]

    assert sorted(at_once(*races)) == [AlreadyExists.__name__, "done"]
    assert rig.client.verify(str(tmp_path / "image"))["task"] in ("a", "b")
    assert [p.name for p in tmp_path.iterdir()] == ["image"]
    rig.client.restore("c", RestoreOptions(image_path=str(tmp_path / "image")))
