"""Several containers in one sandbox: saved as one, and all of them brought back."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shim.cuda import native
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    CudaError,
    DeadlineExceeded,
    FailedPrecondition,
    IllegalState,
    ImageCorrupt,
    Impossible,
    InvalidArgument,
    ResourceExhausted,
)
from shim.model import CheckpointResult, MemberOptions, RestoreOptions
from shim.simgpu.simulation import Fault, Kind, Settings, Simulation, wait_until
from shim.state import TaskState
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import PERIOD_S, WAIT_S, Background, Rig, refused

pytestmark = pytest.mark.timeout(120)

CRI = "io.kubernetes.cri"


@dataclass(frozen=True)
class Pod:
    """A sandbox with a GPU workload of two processes and a plain one."""

    rig: Rig
    sandbox: str = "pod"
    train: str = "train"
    count: str = "count"

    @property
    def ids(self) -> tuple[str, str, str]:
        """Name all, the sandbox first."""
        return (self.sandbox, self.train, self.count)

    def begin(self, train: int = 2, count: int = 0) -> None:
        """Start all of them, with so many GPU processes in each of the two."""
        self.rig.client.create(self.sandbox, str(self.pause()))
        self.rig.client.start(self.sandbox)
        self.join(self.train, Settings(processes=train, period_s=PERIOD_S))
        plain = Settings(gpu=False, resident_mib=4, period_s=PERIOD_S)
        two = Settings(processes=count, period_s=PERIOD_S)
        self.join(self.count, two if count else plain)

    def pause(self) -> Path:
        """Write the bundle of a sandbox that does nothing itself."""
        folder = self.rig.bundle(self.sandbox, ("/bin/sleep", "10000"))
        self.annotate(folder, "sandbox", self.sandbox)
        return folder

    def member(self, name: str, settings: Settings) -> Path:
        """Write the bundle of a container that joins."""
        folder = self.rig.sim.bundle(name, settings, inject_tool=False)
        self.annotate(folder, "container", name)
        return folder

    def annotate(self, folder: Path, kind: str, name: str) -> None:
        """Say in a bundle what the CRI plugin says."""
        with self.rig.edited(folder) as spec:
            spec["annotations"] = {
                f"{CRI}.container-type": kind,
                f"{CRI}.sandbox-id": self.sandbox,
                f"{CRI}.container-name": name,
            }

    def join(self, name: str, settings: Settings) -> None:
        """Start a container in the sandbox, and wait for its first steps."""
        self.rig.client.create(name, str(self.member(name, settings)))
        self.rig.client.start(name)
        self.rig.sim.until_ready(self.rig.guest, name)

    @property
    def in_second(self) -> int:
        """Return a process number that only the second container has, which has more of them."""
        first, second = (
            self.rig.sim.status(self.rig.guest, name).pids for name in (self.train, self.count)
        )
        return (set(second) - set(first)).pop()

    @property
    def fine(self) -> bool:
        """Whether both workloads go on and have lost nothing."""
        return self.rig.fine(self.train) and self.rig.fine(self.count)

    @property
    def states(self) -> list[TaskState]:
        """Return the states of all."""
        found = {view.id: view.state for view in self.rig.client.list()}
        return [found[name] for name in self.ids]

    def remove(self) -> None:
        """End and delete all, the sandbox last."""
        for name in reversed(self.ids):
            self.rig.end(name)


RUNNING = [TaskState.RUNNING] * 3


@pytest.fixture
def pod(rig: Rig) -> Pod:
    """Give a pod that runs."""
    made = Pod(rig)
    made.begin()
    return made


@pytest.fixture
def two(rig: Rig) -> Pod:
    """Give a pod with GPU processes in two containers: one in the first, two in the second."""
    made = Pod(rig)
    made.begin(train=1, count=2)
    return made


def renamed(pod: Pod) -> tuple[MemberOptions, ...]:
    """Give the members other ids."""
    return tuple(MemberOptions(saved=one, id=f"{one}2") for one in pod.ids[1:])


def restored_beside(pod: Pod, made: CheckpointResult) -> Pod:
    """Restore a pod under other ids."""
    other = Pod(pod.rig, *(f"{one}2" for one in pod.ids))
    result = pod.rig.restore(other.sandbox, made.image_path, members=renamed(pod))
    assert result.members == other.ids[1:]
    return other


def only(pod: Pod) -> bool:
    """Whether there are these tasks, all running, and no others; both workloads go on."""
    there = {view.id for view in pod.rig.client.list()}
    return there == set(pod.ids) and pod.states == RUNNING and pod.fine


def only_running(pod: Pod) -> bool:
    """Whether no other task runs."""
    views = pod.rig.client.list()
    return {v.id for v in views if v.state is TaskState.RUNNING} == set(pod.ids) and pod.fine


def test_a_pod_is_killed_and_comes_back(pod: Pod, engine: str) -> None:
    """A save through any member is of all; all come back under their ids and go on."""
    made = pod.rig.checkpoint("count", engine)
    assert only(pod)
    pod.remove()

    result = pod.rig.restore("pod", made.image_path)

    assert made.members == result.members == ("train", "count")
    assert [one.container for one in made.processes] == ["train", "train"]
    assert result.processes == made.processes
    assert only(pod)
    before = pod.rig.client.state("train").pid
    assert [pod.rig.client.state(name).pid for name in pod.ids] == [before] * 3
    pod.remove()


def test_a_pod_beside_the_first(two: Pod, engine: str) -> None:
    """Under other ids the copy runs beside the original, and each ends alone."""
    made = two.rig.checkpoint("pod", engine)

    other = restored_beside(two, made)

    assert [one.container for one in made.processes] == ["train", "count", "count"]
    assert other.states == RUNNING
    assert other.fine
    other.remove()
    assert only(two)


def test_clones_of_a_pod(pod: Pod) -> None:
    """Each has all containers of the pod, under ids that the caller chooses."""
    made = pod.rig.checkpoint("count")
    clones = [Pod(pod.rig, *(f"{one}-{number}" for one in pod.ids)) for number in (1, 2)]
    found = pod.rig.client.clone(
        {
            one.sandbox: RestoreOptions(
                image_path=made.image_path,
                hostname=one.sandbox,
                members=tuple(
                    MemberOptions(saved=saved, id=name)
                    for saved, name in zip(pod.ids[1:], one.ids[1:], strict=True)
                ),
            )
            for one in clones
        }
    )

    assert [one.restored.members for one in found if one.restored] == [
        one.ids[1:] for one in clones
    ]
    assert all(one.states == RUNNING and one.fine for one in (pod, *clones))
    # Without ids of their own the containers would have those of the first pod.
    [refused_one] = pod.rig.client.clone({"pod-3": RestoreOptions(image_path=made.image_path)})
    assert refused_one.kind == "AlreadyExists"


def test_all_are_locked_before_any_is_frozen(two: Pod) -> None:
    """All containers are one job: none is frozen before each process of all is held."""
    two.rig.sim.calls(clear=True)

    two.rig.checkpoint("train", "phased")

    moves = [call.action for call in two.rig.sim.calls() if not call.action.startswith("get-")]
    want = ["lock", "checkpoint", "restore", "unlock"]
    assert moves == [action for action in want for _ in range(3)]


def test_a_paused_pod_stays_paused(pod: Pod, engine: str) -> None:
    """A pause of one stops them all; it is there again after the save, and the copy runs."""
    pod.rig.client.pause("count")

    made = pod.rig.checkpoint("train", engine)

    assert pod.states == [TaskState.RUNNING, TaskState.RUNNING, TaskState.PAUSED]
    other = restored_beside(pod, made)
    assert other.fine
    other.remove()
    pod.rig.client.resume("count")
    assert only(pod)


def ways(pod: Pod) -> set[str]:
    """Return in which ways the driver was called in the checkpoint and restore of a pod."""
    if not native.path():
        excuse("cryo-cuda is not built: there is no C compiler")
    pod.rig.sim.calls(clear=True)
    assert restored_beside(pod, pod.rig.checkpoint("pod", "phased")).fine
    return {call.via for call in pod.rig.sim.calls()}


def test_a_pod_with_one_gpu_container_goes_by_batches(pod: Pod) -> None:
    """No other container has a process that would have to be locked first."""
    assert ways(pod) == {"batch"}
    assert pod.fine


def test_a_pod_with_two_goes_step_by_step(two: Pod) -> None:
    """All of both are locked before one is frozen, which no run in one container sees to."""
    assert ways(two) == {""}
    assert two.fine


@pytest.mark.long
def test_two_without_nvidias_tool(runsc_new: RunscBuild) -> None:
    """Ours has its command line too, for the steps of single processes and for runsc's engine."""
    if not native.path():
        excuse("cryo-cuda is not built: there is no C compiler")
    with Simulation(runsc_new.path, tool=False) as sim:
        sim.start_sidecar()
        pod = Pod(Rig(sim, runsc_new))
        pod.begin(train=1, count=2)
        for engine in ("phased", "builtin"):
            other = restored_beside(pod, pod.rig.checkpoint("pod", engine))
            assert other.fine
            other.remove()
        assert only(pod)
        pod.rig.clear()


def test_exit_ends_all(pod: Pod, engine: str) -> None:
    """With exit every task is over, the sandbox last; their ids are free at once."""
    made = pod.rig.checkpoint("pod", engine, exit=True)

    assert pod.states == [TaskState.STOPPED] * 3
    ends = [pod.rig.client.wait(name) for name in pod.ids]
    assert {one.status for one in ends} == {137}
    assert ends[0].at == max(one.at for one in ends)
    for name in reversed(pod.ids):
        pod.rig.client.delete(name)
    pod.rig.restore("pod", made.image_path)
    assert only(pod)


@pytest.mark.parametrize(
    ("engine", "action"),
    (pytest.param("phased", "lock", marks=pytest.mark.long), ("builtin", "checkpoint")),
)
def test_a_freeze_that_fails_in_the_second_container(two: Pod, engine: str, action: str) -> None:
    """Nothing is saved; every process of both containers runs as before."""
    pid = two.in_second
    two.rig.sim.faults(Fault(action=action, kind=Kind.FAIL, pid=pid, nth=1))

    with pytest.raises(CudaError, match=rf"process {pid} \(python.*\) of count"):
        two.rig.checkpoint("train", engine)

    assert only(two)
    assert two.rig.client.images() == []
    two.rig.sim.faults()
    other = restored_beside(two, two.rig.checkpoint("train", engine))
    assert other.fine


@pytest.mark.long
def test_a_tool_that_hangs_in_the_second_container(two: Pod, engine: str) -> None:
    """It is ended at its deadline, where it is, and all go on."""
    rig = two.rig
    with short_deadlines(rig):
        pid = two.in_second
        rig.sim.faults(Fault(action="checkpoint", kind=Kind.HANG, pid=pid, nth=1))

        error = refused(DeadlineExceeded, lambda: rig.checkpoint("train", engine))

        assert re.search(rf"{pid} \(python.*\) of count", error.message)
        rig.sim.faults()
        assert only(two)


@contextlib.contextmanager
def short_deadlines(rig: Rig) -> Iterator[None]:
    """Have a sidecar that waits for a freeze for no more than two seconds."""
    rig.sim.stop_sidecar()
    rig.sim.start_sidecar(timeouts={"freeze": 2.0})
    try:
        yield
    finally:
        rig.sim.stop_sidecar()
        rig.start_sidecar()


@pytest.mark.parametrize(
    ("engine", "action"),
    (
        ("phased", "lock"),
        pytest.param("builtin", "checkpoint", marks=pytest.mark.long),
        ("phased", "restore"),
    ),
)
def test_the_sidecar_dies(two: Pod, engine: str, action: str) -> None:
    """Before a freeze, in it or in the thaw: the next one has every process of all run again."""
    rig = two.rig
    rig.sim.calls(clear=True)
    rig.sim.faults(Fault(action=action, kind=Kind.SLOW, pid=two.in_second, seconds=2.0))
    saving = Background(lambda: rig.checkpoint("train", engine))
    rig.sim.until_called(action, 3)

    rig.crash()

    with pytest.raises(CryoError):
        saving.result()
    rig.sim.faults()
    assert only(two)
    assert rig.client.images() == []
    assert [view.warning for view in rig.client.list()] == [""] * 3


def test_the_end_of_a_member_is_seen_by_the_next_sidecar(pod: Pod) -> None:
    """A container's own end is not that of its sandbox, whatever is attached."""
    pod.rig.crash()

    pod.rig.behind.box.check("kill", "count+", "KILL")

    assert pod.rig.client.wait("count").status == 137
    assert pod.states == [TaskState.RUNNING, TaskState.RUNNING, TaskState.STOPPED]
    assert pod.rig.fine("train")


def test_a_member_that_has_ended_is_named(pod: Pod) -> None:
    """A pod of which one has exited is not saved until that one is deleted."""
    rig = pod.rig
    rig.client.kill("count", 9)
    rig.client.wait("count")
    rig.sim.calls(clear=True)

    error = refused(IllegalState, lambda: rig.checkpoint("train"))

    assert "task count" in error.message
    assert rig.sim.calls() == []
    rig.client.delete("count")
    made = rig.checkpoint("train")
    assert made.members == ("train",)
    assert rig.fine("train")
    copy = rig.restore("pod2", made.image_path, members=(MemberOptions(saved="train", id="x"),))
    assert copy.members == ("x",)
    assert rig.fine("x")


def test_a_member_that_was_not_started_is_named(pod: Pod) -> None:
    """Nor is one of which a container has only been created."""
    bundle = pod.member("late", Settings(gpu=False))
    pod.rig.client.create("late", str(bundle))

    error = refused(IllegalState, lambda: pod.rig.checkpoint("pod"))

    assert "task late" in error.message
    assert pod.states == RUNNING


def test_a_member_without_a_name_is_named(pod: Pod) -> None:
    """Runsc could not distinguish two of the same name in the image, nor those that have none."""
    rig = pod.rig
    for name, called in (("nameless", ""), ("second", "train")):
        bundle = pod.member(name, Settings(gpu=False))
        with rig.edited(bundle) as spec:
            spec["annotations"][f"{CRI}.container-name"] = called
        rig.client.create(name, str(bundle))
        rig.client.start(name)

    error = refused(Impossible, lambda: rig.checkpoint("pod"))

    assert error.message.startswith("train, nameless, second cannot be distinguished")
    assert pod.states == RUNNING


@pytest.mark.parametrize("victim", ("train", "count"))
def test_a_member_ends_during_the_freeze(two: Pod, victim: str) -> None:
    """There is no image without it; the others run as before."""
    rig = two.rig
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, pid=two.in_second, seconds=2.0))
    saving = Background(lambda: rig.checkpoint("pod", "phased"))
    rig.sim.until_called("checkpoint", 3)

    rig.behind.box.check("kill", f"{victim}+", "KILL")

    with pytest.raises(CryoError):
        saving.result()
    rig.sim.faults()
    other = {"train": "count", "count": "train"}[victim]
    assert rig.client.wait(victim).status == 137
    assert rig.fine(other)
    assert rig.client.images() == []


def test_no_container_joins_a_pod_that_is_being_saved(pod: Pod) -> None:
    """A container that is created meanwhile would be missing in the image."""
    rig = pod.rig
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, nth=1, seconds=2.0))
    bundle = pod.member("late", Settings(gpu=False))
    saving = Background(lambda: rig.checkpoint("pod", "phased"))
    rig.sim.until_called("checkpoint")

    error = refused(Busy, lambda: rig.client.create("late", str(bundle)))

    assert "task pod" in error.message
    saving.result()
    assert only(pod)


# -- restores that fail ----------------------------------------------------------------------------


def test_an_image_with_a_file_less(pod: Pod) -> None:
    """It is refused before anything is made."""
    made = pod.rig.checkpoint("pod")
    (Path(made.image_path) / "pages.img").unlink()

    error = refused(ImageCorrupt, lambda: restored_beside(pod, made))

    assert "pages.img missing" in error.message
    assert only(pod)


def test_ids_that_cannot_be(pod: Pod) -> None:
    """One that is taken, no member's, or there twice is refused, and nothing is left."""
    made = pod.rig.checkpoint("pod")

    def restore(*members: MemberOptions) -> Callable[[], object]:
        return lambda: pod.rig.restore("pod2", made.image_path, members=members)

    free = MemberOptions(saved="train", id="free")
    refused(AlreadyExists, restore(free))
    assert "count" in refused(AlreadyExists, restore(free)).message
    stranger = MemberOptions(saved="stranger", id="x")
    assert "count, train" in refused(InvalidArgument, restore(stranger)).message
    twice = MemberOptions(saved="count", id="free")
    assert "free" in refused(InvalidArgument, restore(free, twice)).message
    assert only(pod)


def test_too_little_gpu_memory_in_the_second_container(two: Pod, engine: str) -> None:
    """No member of the copy is left when one process of one of them does not come back."""
    made = two.rig.checkpoint("pod", engine)
    two.rig.sim.faults(Fault(action="restore", kind=Kind.OOM, pid=two.in_second))

    refused(ResourceExhausted, lambda: restored_beside(two, made))

    two.rig.sim.faults()
    assert only(two)


def test_a_bundle_for_each(pod: Pod) -> None:
    """Each container may come back with a bundle of its own, which is compared with the image's."""
    made = pod.rig.checkpoint("pod")
    other = Pod(pod.rig, "pod2", "train2", "count2")
    theirs = other.member("train2", Settings(processes=2, period_s=PERIOD_S))
    counting = other.member("count2", Settings(gpu=False, resident_mib=4, period_s=PERIOD_S))
    strange = other.member("strange", Settings(processes=1))
    sandbox = other.pause()
    key = f"{CRI}.container-name"

    def name(bundle: Path, saved: str) -> None:
        with pod.rig.edited(bundle) as spec:
            spec["annotations"][key] = saved

    for bundle, saved in {theirs: "train", counting: "count", strange: "train"}.items():
        name(bundle, saved)

    def restore(bundle: Path) -> object:
        members = (
            MemberOptions(saved="train", id="train2", bundle=str(bundle)),
            MemberOptions(saved="count", id="count2", bundle=str(counting)),
        )
        return pod.rig.restore("pod2", made.image_path, bundle=str(sandbox), members=members)

    assert key in refused(InvalidArgument, lambda: restore(theirs)).message
    name(sandbox, "pod")
    assert "process.args" in refused(InvalidArgument, lambda: restore(strange)).message
    restore(theirs)
    assert other.fine
    assert pod.rig.client.state("train2").bundle == str(theirs)


# -- as containerd restores ------------------------------------------------------------------------


def created(pod: Pod, *images: str, below: Path | None = None) -> Pod:
    """Create the tasks of a copy, each from an image; all from the first where there is one."""
    other = Pod(pod.rig, *(f"{one}2" for one in pod.ids))
    bundles = (
        other.pause(),
        other.member(other.train, Settings(processes=2, period_s=PERIOD_S)),
        other.member(other.count, Settings(gpu=False, resident_mib=4, period_s=PERIOD_S)),
    )
    of_each = images if len(images) > 1 else images * 3
    for saved, name, bundle, image in zip(pod.ids, other.ids, bundles, of_each, strict=True):
        with pod.rig.edited(bundle) as spec:
            spec["annotations"][f"{CRI}.container-name"] = saved
        place = bundle.rename(below / name) if below else bundle
        pod.rig.client.create(name, str(place), checkpoint=image)
    return other


def test_start_by_start(pod: Pod, engine: str) -> None:
    """The sandbox's Start returns at once; the last container's returns when all run."""
    made = pod.rig.checkpoint("pod", engine)
    other = created(pod, made.image_path)
    start = pod.rig.client.start

    assert start("pod2") > 0
    assert other.states == [TaskState.RESTORING, TaskState.CREATED, TaskState.CREATED]
    start("count2")
    assert other.states == [TaskState.RESTORING, TaskState.CREATED, TaskState.RESTORING]
    start("train2")

    assert other.states == RUNNING
    assert other.fine
    other.remove()
    assert only(pod)


def test_copies_of_the_image_are_dropped_at_the_end(pod: Pod) -> None:
    """Containerd unpacks the image for each container, and leaves the removal to us."""
    made = pod.rig.checkpoint("pod")
    folder = pod.rig.sim.folder / "io.containerd.runtime.v2.task"
    folder.mkdir()
    images = [folder / f"ctrd-checkpoint{number}" for number in range(3)]
    for image in images:
        shutil.copytree(made.image_path, image)
    other = created(pod, *map(str, images), below=folder)

    for name, there in zip(other.ids, (3, 3, 0), strict=True):
        pod.rig.client.start(name)
        assert sum(image.exists() for image in images) == there

    assert other.fine
    other.remove()
    shutil.rmtree(folder)


def test_containers_of_different_images(pod: Pod) -> None:
    """A container that is to come from another image than its sandbox does not join it."""
    first, second = (pod.rig.checkpoint("pod").image_path for _ in range(2))
    other = created(pod, first, first, second)
    pod.rig.client.start("pod2")
    pod.rig.client.start("train2")

    error = refused(InvalidArgument, lambda: pod.rig.client.start("count2"))

    assert "count2" in error.message
    assert other.states == [TaskState.RESTORING, TaskState.RESTORING, TaskState.CREATED]
    pod.rig.client.kill("pod2", 9)
    assert only_running(pod)


def test_a_member_before_its_sandbox(pod: Pod) -> None:
    """A container cannot be started before its sandbox; afterwards it can."""
    other = created(pod, pod.rig.checkpoint("pod").image_path)

    error = refused(FailedPrecondition, lambda: pod.rig.client.start("train2"))

    assert "pod2" in error.remedy
    for name in other.ids:
        pod.rig.client.start(name)
    assert other.fine


def test_a_pod_that_waits_can_be_killed(pod: Pod) -> None:
    """A kill of any of those that wait ends all of them."""
    other = created(pod, pod.rig.checkpoint("pod").image_path)
    pod.rig.client.start("pod2")
    pod.rig.client.start("train2")

    pod.rig.client.kill("train2", 9)

    assert other.states == [TaskState.STOPPED, TaskState.STOPPED, TaskState.CREATED]
    refused(FailedPrecondition, lambda: pod.rig.client.start("count2"))
    for name in reversed(other.ids):
        pod.rig.client.delete(name)
    assert only(pod)


def test_a_pod_that_waits_too_long(pod: Pod) -> None:
    """After the time of a restore it is ended, and the log and the listing say who was missing."""
    rig = pod.rig
    made = rig.checkpoint("pod")
    rig.sim.stop_sidecar()
    rig.sim.start_sidecar(timeouts={"restore": 3.0})
    try:
        created(pod, made.image_path)
        rig.client.start("pod2")
        rig.client.start("count2")

        assert rig.client.wait("pod2").status != 0
        rig.client.wait("count2")

        def reported() -> bool:
            return "train had not been started" in warning_of(rig, "pod2")

        wait_until(reported, "the warning", WAIT_S)
    finally:
        rig.sim.stop_sidecar()
        rig.start_sidecar()


def warning_of(rig: Rig, name: str) -> str:
    """Return what the listing warns of."""
    return next(view.warning for view in rig.client.list() if view.id == name)


def test_a_start_that_fails_ends_all(two: Pod) -> None:
    """When the last Start fails, no task of the copy is left running."""
    rig = two.rig
    made = rig.checkpoint("pod", "phased")
    other = Pod(rig, "pod2", "train2", "count2")
    settings = {other.train: Settings(processes=1), other.count: Settings(processes=2)}
    bundles = [other.pause(), *(other.member(name, one) for name, one in settings.items())]
    for saved, name, bundle in zip(two.ids, other.ids, bundles, strict=True):
        with rig.edited(bundle) as spec:
            spec["annotations"][f"{CRI}.container-name"] = saved
            spec["process"]["args"] = args_of(rig, saved)
        rig.client.create(name, str(bundle), checkpoint=made.image_path)
    rig.client.start("pod2")
    rig.client.start("train2")
    rig.sim.faults(Fault(action="restore", kind=Kind.OOM, pid=two.in_second))

    refused(ResourceExhausted, lambda: rig.client.start("count2"))

    rig.sim.faults()
    assert other.states == [TaskState.STOPPED] * 3
    assert two.states == RUNNING
    assert two.fine


def args_of(rig: Rig, name: str) -> list[str]:
    """Return the command line of a task."""
    with rig.edited(Path(rig.client.state(name).bundle)) as spec:
        found: list[str] = spec["process"]["args"]
    return found


def test_the_sidecar_dies_while_a_pod_waits(pod: Pod) -> None:
    """The next one leaves nothing of what had not come back whole."""
    created(pod, pod.rig.checkpoint("pod").image_path)
    pod.rig.client.start("pod2")
    pod.rig.client.start("train2")

    pod.rig.crash()

    assert only(pod)


def test_processes_of_a_pod(pod: Pod) -> None:
    """Each container lists its own processes; of those with a GPU the CUDA states are known."""
    train, count = (pod.rig.client.processes(name) for name in (pod.train, pod.count))

    assert (train.warnings, count.warnings) == ((), ())
    states = [one.cuda_state for one in train.processes]
    assert sorted(map(str, states)) == ["None", "running", "running"]
    assert all("/dev/simgpu/code/workload.py" in one.args for one in train.processes)
    assert {one.cuda_state for one in count.processes} == {None}
