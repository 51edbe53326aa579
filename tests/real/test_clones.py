"""Several tasks of one image at once, on real runsc."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from shim.errors import ImageCorrupt, NotFound, Unavailable
from shim.image.side_files import is_side_file
from shim.model import CloneResult, Phase, Progress, RestoreOptions, Stdio, Verify
from shim.simgpu.gpu import UUID
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Rig, refused
from tests.real.helpers_served import network_namespace, served
from tests.real.test_instance import bundle_of, line

pytestmark = pytest.mark.timeout(180)
# Prints its hostname again and again.
NAMES = ("/bin/sh", "-c", "while :; do hostname; sleep 0.1; done")


def options(image: str, names: list[str], **more: object) -> dict[str, RestoreOptions]:
    """Return the options of clones whose hostnames are their ids."""
    return {
        name: RestoreOptions(image_path=image, hostname=name, **more)  # type: ignore[arg-type]  # by name
        for name in names
    }


def by_id(found: list[CloneResult]) -> dict[str, CloneResult]:
    """Return what became of each clone."""
    return {one.id: one for one in found}


def printed(path: Path) -> list[str]:
    """Return the lines of a file, once there are some."""
    wait_until(lambda: path.read_text("utf-8").count("\n") > 3, str(path), WAIT_S)
    return path.read_text("utf-8").split()


@pytest.mark.every_combination
def test_data_of_clones(rig: Rig, engine: str) -> None:
    """Every clone has the memory, files and GPU memory of the image, and goes on by itself."""
    rig.workload("job", resident_mib=16)
    image = rig.checkpoint("job", engine).image_path
    assert rig.client.inspect(image)["used_gpus"] == [UUID]
    names = ["c-1", "c-2", "c-10"]

    found = rig.client.clone(options(image, names))

    assert [one.id for one in found] == names
    made = [one.restored for one in found if one.restored is not None]
    assert len({one.pid for one in made}) == 3
    assert all(rig.fine(name) for name in ("job", *names))


def test_clones_have_their_own(rig: Rig) -> None:
    """Streams and hostnames are each clone's, and reach the processes that are restored."""
    rig.program("job", *NAMES)
    image = rig.checkpoint("job").image_path
    outputs = {name: rig.sim.folder / f"{name}.out" for name in ("c-1", "c-2")}

    found = rig.client.clone(
        {
            name: RestoreOptions(
                image_path=image, hostname=name, stdio=Stdio(stdout=f"file://{path}")
            )
            for name, path in outputs.items()
        }
    )

    for one in found:
        assert one.restored is not None
        path = outputs[one.id]
        if rig.build.has_builtin:
            assert one.restored.warnings == ()
            assert set(printed(path)) == {one.id}
        else:
            assert "the task may keep its saved hostname" in one.restored.warnings[0]
            assert printed(path)


def test_one_that_fails_is_alone(rig: Rig) -> None:
    """Its error is in its result; the others run, and the task that had its name as before."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    rig.sleeper("c-2")
    before = rig.client.state("c-2").pid
    clones = options(image, ["c-1", "c-2", "c-3", "c-4"])
    clones["c-3"] = RestoreOptions(image_path=image, bundle="/nowhere")

    found = by_id(rig.client.clone(clones))

    assert {name: one.kind for name, one in found.items()} == {
        "c-1": "",
        "c-2": "AlreadyExists",
        "c-3": "InvalidBundle",
        "c-4": "",
    }
    assert found["c-3"].remedy
    states = {view.id: view.state for view in rig.client.list()}
    assert states == dict.fromkeys(("job", "c-1", "c-2", "c-4"), TaskState.RUNNING)
    assert rig.client.state("c-2").pid == before


def test_an_interrupt_leaves_the_complete(rig: Rig) -> None:
    """Those that are not complete are rolled back, also those that had not begun."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path

    def interrupt(progress: Progress) -> None:
        if progress.pid_state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.client.clone(
            options(image, [f"c-{n}" for n in range(1, 6)]), on_progress=interrupt, at_once=1
        )

    left = {view.id for view in rig.client.list()}
    assert {"job", "c-1"} <= left
    assert not left & {"c-3", "c-4", "c-5"}
    assert {view.state for view in rig.client.list()} == {TaskState.RUNNING}


def test_the_sidecar_dies(rig: Rig) -> None:
    """The next one rolls back what was not complete; the clones that were run on."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    names = [f"c-{n}" for n in range(1, 5)]

    def kill(progress: Progress) -> None:
        if progress.pid_state == "running":
            rig.sim.kill_sidecar()

    with pytest.raises(Unavailable):
        rig.client.clone(options(image, names), on_progress=kill, at_once=2)
    rig.start_sidecar()

    views = {view.id: view for view in rig.client.list()}
    assert {view.state for view in views.values()} == {TaskState.RUNNING}
    assert 1 <= len(set(views) & set(names)) < len(names)
    assert all(rig.client.pids(name) == [1] for name in views)


def test_a_kill_of_one_clone(rig: Rig) -> None:
    """A clone can be killed while it is restored, and only that one ends."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    killed = threading.Event()

    def kill() -> None:
        def known() -> bool:
            try:
                rig.client.kill("c-2", 9)
            except NotFound:
                return False
            return True

        wait_until(known, "the clone", WAIT_S)
        killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    found = by_id(rig.client.clone(options(image, ["c-1", "c-2", "c-3"])))
    thread.join()

    assert killed.is_set()
    assert found["c-1"].restored
    assert found["c-3"].restored
    states = {view.id: view.state for view in rig.client.list()}
    assert states["c-1"] is states["c-3"] is TaskState.RUNNING
    assert states.get("c-2") in (None, TaskState.STOPPED)


def test_an_image_is_read_once(rig: Rig) -> None:
    """However much is verified, it is verified for all clones together."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    size = sum(
        path.stat().st_size
        for path in Path(image).iterdir()
        if not is_side_file(path.name) and path.name != "cryo.json"
    )
    read: list[Progress] = []

    def report(progress: Progress) -> None:
        if progress.phase is Phase.VERIFY and progress.bytes_total:
            read.append(progress)

    names = ["c-1", "c-2", "c-3"]
    found = rig.client.clone(options(image, names, verify=Verify.FULL), on_progress=report)

    assert all(one.restored for one in found)
    assert {one.bytes_total for one in read} == {size}
    assert [one.bytes_done for one in read].count(size) == 1


def test_a_damaged_image_makes_no_clone(rig: Rig) -> None:
    """The error is that of the call, as no clone was begun."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    with (Path(image) / "checkpoint.img").open("ab") as file:
        file.write(b"x")

    error = refused(ImageCorrupt, lambda: rig.client.clone(options(image, ["c-1", "c-2"])))

    assert "has grown" in error.message

    assert [view.id for view in rig.client.list()] == ["job"]


def test_environments_of_clones(rig: Rig) -> None:
    """Each reads its own in /run/cryo/instance, where variables of the image stay."""
    rig.client.create("job", bundle_of(rig, "job", "first", {"io.cryo.instance": "true"}))
    rig.client.start("job")
    wait_until(
        lambda: rig.guest.exec("job", ["/bin/ls", "/run/cryo/checkpoint"]).status == 0,
        "the request",
        WAIT_S,
    )
    image = rig.checkpoint("job").image_path
    clones = {
        name: RestoreOptions(image_path=image, env=(f"MINE={name}",)) for name in ("c-1", "c-2")
    }

    assert all(one.restored for one in rig.client.clone(clones))

    assert {name: line(rig, name)[2] for name in clones} == {"c-1": "c-1", "c-2": "c-2"}


def test_network_namespaces_of_clones(runsc_new: RunscBuild) -> None:
    """The sandbox of each is in the namespace that it was given; one that is gone fails alone."""
    # Made first: the machine has the mounts that there are when it begins.
    with network_namespace() as own, served(runsc_new, "sandbox") as place:
        place.rig.client.create("job", str(place.bundle("job", ["/bin/sleep", "1000"], {})))
        place.rig.client.start("job")
        image = place.rig.checkpoint("job").image_path
        places = {"c-1": own, "c-2": "/run/netns/gone"}
        found = by_id(
            place.rig.client.clone(
                {name: RestoreOptions(image_path=image, netns=at) for name, at in places.items()}
            )
        )

        assert found["c-1"].restored is not None
        inside = Path(f"/proc/{found['c-1'].restored.pid}/ns/net").stat()
        assert inside.st_ino == Path(own).stat().st_ino
        assert found["c-2"].kind == "FailedPrecondition"
        assert "/run/netns/gone does not exist" in found["c-2"].error


def test_an_environment_without_a_reader(rig: Rig) -> None:
    """It is refused, as the restored processes keep theirs."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path

    [one] = rig.client.clone({"c": RestoreOptions(image_path=image, env=("A=b",))})

    assert (one.kind, one.restored) == ("InvalidArgument", None)
    assert "io.cryo.instance" in one.remedy
    refused(NotFound, partial(rig.client.state, "c"))
