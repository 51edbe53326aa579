"""Warm starts: when a container is saved, by whom of many, and what a failure leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from shim.config import Pods
from shim.errors import Busy, Impossible, InvalidArgument, Refused
from shim.image import named_use
from shim.image.manifest import Member
from shim.image.named import Fingerprint, ImageRef, NamedImages
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import CheckpointOptions, CheckpointResult, Report, TaskRef, utcnow
from shim.oci import canonical
from shim.oci.pod import SANDBOX_NAMESPACE
from shim.state import TaskState
from shim.task import warm
from shim.task.container import Container
from shim.task.readiness import NotReady
from shim.transaction.builds import runsc_build
from shim.transaction.hostfacts import read_host
from tests.unit.fakes_pods import Pod
from tests.unit.fakes_tasks import FakeEnv, Owner, owning
from tests.unit.image_helpers import sealed
from tests.unit.test_task_origin import NAME, annotate
from tests.unit.test_task_pod_container import WaitSupervisor

WAIT_S = 60
WARM = {"io.cryo.warm": NAME, "io.cryo.warm-period": "0.01", "io.cryo.warm-timeout": "60"}
STATE = """for word in "$@"; do :; done
echo "{\\"id\\": \\"$word\\", \\"status\\": \\"running\\"}\""""
REF = ImageRef(namespace="ns", name=NAME)


class Saver:
    """Makes complete images instead of checkpoints, or fails."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.fails: list[BaseException] = []
        self.saved: list[TaskRef] = []
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def __call__(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Make an image of a task, or fail."""
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        task, host = self.owner.tasks._task(ref), read_host()
        made = sealed(
            Path(options.image_path),
            spec=task.files.spec.data,
            bundle=task.record.bundle,
            processes=(),
            arch=host.arch,
            cpu_features=host.cpu_features,
            runsc=await runsc_build(task.runsc.capabilities),
            members=tuple(map(_member, self.owner.tasks._map.sandbox_of(task).containers[1:])),
        )
        self.saved.append(ref)
        return CheckpointResult(
            image_path=options.image_path, size_bytes=1, digest=made.digest, engine=""
        )


def _member(task: Container) -> Member:
    spec = task.files.spec.data
    digest = canonical.digest(canonical.encode(spec))
    return Member(task=task.ref.id, name=task.name, spec=spec, spec_digest=digest)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


@pytest.fixture
def saver(owner: Owner) -> Saver:
    """Give what its warm starts save with."""
    made = Saver(owner)
    owner.tasks.warm._saves._checkpoint = made
    return made


def images(owner: Owner) -> NamedImages:
    """Return the images of the name."""
    return NamedImages(Path(owner.config.paths.images), REF)


def use(owner: Owner) -> named_use.NamedUse:
    """Return the counters of the name."""
    return named_use.read(images(owner).folder)


async def background(owner: Owner) -> None:
    """Wait until nothing goes on in the background that a start began."""

    def busy() -> bool:
        names = owner.tasks._owner.context().background.names
        return any(name.startswith(("warm start", "count")) for name in names)

    async with asyncio.timeout(WAIT_S):
        while busy():  # noqa: ASYNC110 - the tasks are the owner's
            await asyncio.sleep(0.005)


async def start(owner: Owner, name: str = "a", **more: str) -> Container:
    """Create and start a task with the annotations of a warm start."""
    annotate(owner, WARM | more)
    return await start_again(owner, name)


async def start_again(owner: Owner, name: str) -> Container:
    """Create and start a task from the bundle as it is."""
    await owner.tasks.create(owner.request(name))
    await owner.tasks.start(owner.ref(name))
    return owner.tasks._task(owner.ref(name))


async def end(owner: Owner, name: str = "a") -> None:
    """Kill and delete a task."""
    owner.kill_sandbox(owner.tasks._task(owner.ref(name)).record.pid)
    await asyncio.wait_for(owner.tasks.wait(owner.ref(name)), WAIT_S)
    await owner.tasks.delete(owner.ref(name))


async def test_the_second_start_is_a_restore(owner: Owner, saver: Saver) -> None:
    """The first is cold and is saved; the next one is restored from that, and not saved again."""
    task = await start(owner)
    await background(owner)

    assert saver.saved == [owner.ref()]
    assert task.record.named is not None
    assert task.record.named.settled
    (path,) = images(owner).of(task.record.named.fingerprint)
    await end(owner)
    again = await start(owner)
    await background(owner)
    assert again.record.image_path == str(path)
    assert saver.saved == [owner.ref()]
    found = use(owner)
    assert (found.misses, found.saves, found.hits, found.refusals) == (1, 1, 1, 0)


async def test_one_of_many_is_saved(owner: Owner, saver: Saver) -> None:
    """Those that are ready while one is being saved, or after that, save nothing."""
    saver.gate = asyncio.Event()
    names = ("a", "b", "c", "d")
    annotate(owner, WARM)
    await asyncio.gather(*(start_again(owner, name) for name in names))
    await asyncio.wait_for(saver.begun.wait(), WAIT_S)
    async with asyncio.timeout(WAIT_S):
        while use(owner).skips < len(names) - 1:  # noqa: ASYNC110 - in a file
            await asyncio.sleep(0.005)
    saver.gate.set()
    await background(owner)

    assert len(saver.saved) == 1
    assert len(images(owner).fingerprints()) == 1
    late = await start(owner, "e")
    assert late.record.image_path


@pytest.mark.parametrize("damage", ("pages.img", "cryo.json"))
async def test_a_damaged_image_is_replaced(owner: Owner, saver: Saver, damage: str) -> None:
    """The start is cold, and its image takes the place of the damaged one."""
    key = (await start(owner)).record.named.fingerprint  # type: ignore[union-attr]
    await background(owner)
    (old,) = images(owner).of(key)
    (old / damage).write_bytes(b"damaged")
    await end(owner)

    task = await start(owner)
    await background(owner)

    assert task.record.image_path == ""
    assert len(saver.saved) == 2
    (new,) = images(owner).of(key)
    assert new != old
    assert not old.exists()
    assert (use(owner).refusals, use(owner).reasons[0].outcome) == (1, "refusals")


async def test_a_check_is_waited_for(
    owner: Owner, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is saved before the check succeeds; the next owner waits on."""
    answers: list[bool] = []
    ready = False

    async def first(*_: object) -> None:
        answers.append(ready)
        if not ready:
            message = "not yet"
            raise NotReady(message)

    monkeypatch.setattr("shim.task.sandbox_readiness._first", first)
    await start(owner, **{"io.cryo.warm-when": "tcp://:80"})
    async with asyncio.timeout(WAIT_S):
        while len(answers) < 3:  # noqa: ASYNC110 - the check is asked again and again
            await asyncio.sleep(0.005)
    assert saver.saved == []

    await owner.again()
    owner.tasks.warm._saves._checkpoint = saver
    ready = True
    await background(owner)

    assert saver.saved == [owner.ref()]
    assert answers[-1]


@pytest.mark.parametrize("fallback", ("never", "save"))
async def test_it_is_not_ready_in_time(
    owner: Owner, saver: Saver, monkeypatch: pytest.MonkeyPatch, fallback: str
) -> None:
    """It is not saved, and a warning has the last reason; or it is saved all the same."""

    async def first(*_: object) -> None:
        message = "nothing listens on port 80"
        raise NotReady(message)

    monkeypatch.setattr("shim.task.sandbox_readiness._first", first)
    more = {"io.cryo.warm-when": "tcp://:80", "io.cryo.warm-timeout": "0.2"}
    task = await start(owner, **more, **{"io.cryo.warm-fallback": fallback})
    await background(owner)

    assert task.state is TaskState.RUNNING
    warned = "not saved as the image llama: it was not ready in 0.2 s: nothing listens on port 80"
    assert (task.warnings.text, len(saver.saved)) == {"never": (warned, 0), "save": ("", 1)}[
        fallback
    ]
    assert (use(owner).failures, use(owner).saves) == {"never": (1, 0), "save": (0, 1)}[fallback]


async def test_a_save_that_fails(owner: Owner, saver: Saver) -> None:
    """The container keeps running, a warning says why, and the next start is cold and saved."""
    saver.fails = [InvalidArgument("the image is too large")]

    task = await start(owner)
    await background(owner)

    assert task.state is TaskState.RUNNING
    assert task.warnings.text == "not saved as the image llama: the image is too large"
    assert owner.topics.count("/cryo/warning") == 1
    assert use(owner).failures == 1
    await end(owner)
    await start(owner)
    await background(owner)
    assert saver.saved == [owner.ref()]


async def test_a_busy_container_is_tried_again(
    owner: Owner, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operation, or a session that cannot be saved now, delays the save."""
    monkeypatch.setattr(warm, "_RETRY_S", 0.01)
    saver.fails = [Busy("a checkpoint is under way"), Refused("an exec runs")]

    task = await start(owner)
    await background(owner)

    assert saver.saved == [owner.ref()]
    assert task.warnings.text == ""


async def test_a_container_that_can_never_be_saved(owner: Owner, saver: Saver) -> None:
    """It is tried once, and one warning has the reason; the next owner does not try again."""
    saver.fails = [Impossible("runsc cannot restore the terminal of shell")] * 2

    task = await start(owner)
    await background(owner)

    assert len(saver.fails) == 1
    reason = "not saved as the image llama: runsc cannot restore the terminal of shell"
    assert (task.state, task.warnings.text) == (TaskState.RUNNING, reason)
    assert owner.topics.count("/cryo/warning") == 1
    assert use(owner).failures == 1
    await owner.again()
    owner.tasks.warm._saves._checkpoint = saver
    await background(owner)
    assert (len(saver.fails), use(owner).failures) == (1, 1)


@pytest.fixture
async def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pod]:
    """Give the bundles of a pod with the annotations of a warm start."""
    monkeypatch.setattr("shim.task.sandbox_readiness._QUIET_S", 0.0)
    owner, supervisor = Owner(tmp_path), WaitSupervisor()
    owner.config = msgspec.structs.replace(owner.config, pods=Pods(restore=True))
    owner.supervisor, owner.runtime_env = supervisor, FakeEnv(tmp_path / "state", supervisor)
    owner.tasks = owner._new()
    owner.script.on("state", STATE)
    made = Pod(owner, "init", "side", "app", "debug")
    made.annotations = WARM | {SANDBOX_NAMESPACE: "team", "io.cryo.warm-period": "0.3"}
    try:
        await owner.tasks.recover()
        yield made
        await owner.tasks.close()
    finally:
        await supervisor.end()


async def finish(pod: Pod, name: str) -> None:
    """Let the container exit with success, and delete it."""
    owner, supervisor = pod.owner, pod.owner.supervisor
    assert isinstance(supervisor, WaitSupervisor)
    answer = {"id": f"{name}+", "exitStatus": 0}
    (owner.record_folder(name) / "wait.json").write_text(json.dumps(answer))
    waiter = supervisor.waiters[("init", "side").index(name) - 2]
    supervisor.children[waiter.pid].kill()
    await asyncio.wait_for(owner.tasks.wait(owner.ref(name)), WAIT_S)
    await owner.tasks.delete(owner.ref(name))


def saved_of(root: Container) -> tuple[Path, list[str]]:
    """Return the image of a pod, and the names of the containers in it."""
    assert root.record.named is not None
    path = Path(root.record.named.saved_image)
    return path, [one.name for one in read_manifest(path, strict=True).members]


@pytest.mark.parametrize("joins", ("app", "debug", "side"))
async def test_an_init_container_that_was_saved(pod: Pod, joins: str) -> None:
    """A pod saved while it ran is saved again when the kubelet starts the next container.

    Its image would wait for the others, so it is removed. A container that joins while those of the
    image run, or that runs again, changes nothing.
    """
    owner, saver = pod.owner, Saver(pod.owner)
    owner.tasks.warm._saves._checkpoint = saver
    await pod.run("pod", "init", "side")
    await background(owner)
    root = owner.tasks._task(owner.ref("pod"))
    early, names = saved_of(root)
    assert names == ["init", "side"]

    for name, when in (("init", ("app", "side")), ("side", ("side",))):
        if joins in when:
            await finish(pod, name)
    await pod.run(joins)
    await background(owner)

    image, names = saved_of(root)
    assert names == (["side", "app"] if joins == "app" else ["init", "side"])
    assert (image == early, early.exists()) == (joins != "app", joins != "app")


async def test_a_pod_that_is_restored_from_an_early_image(pod: Pod) -> None:
    """It is saved again when the next container starts, in place of that image."""
    owner, saver = pod.owner, Saver(pod.owner)
    owner.tasks.warm._saves._checkpoint = saver
    await pod.run("pod", "init", "side")
    await background(owner)
    early, _ = saved_of(owner.tasks._task(owner.ref("pod")))
    owner.kill_sandbox(owner.tasks._task(owner.ref("pod")).record.pid)
    await pod.remove("init", "side", "pod")
    await pod.run("pod", "init", "side")
    await background(owner)
    root = owner.tasks._task(owner.ref("pod"))
    assert root.record.image_path == str(early)
    assert len(saver.saved) == 1

    await finish(pod, "init")
    await pod.run("app")
    await background(owner)

    image, names = saved_of(root)
    assert names == ["side", "app"]
    assert (image.exists(), early.exists()) == (True, False)


async def test_a_container_that_has_exited(
    owner: Owner, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for it ends, without a save or a warning."""

    async def first(*_: object) -> None:
        message = "not yet"
        raise NotReady(message)

    monkeypatch.setattr("shim.task.sandbox_readiness._first", first)
    task = await start(owner, **{"io.cryo.warm-when": "tcp://:80"})
    owner.kill_sandbox(task.record.pid)
    await background(owner)

    assert (saver.saved, task.warnings.text) == ([], "")


async def test_a_check_with_a_mistake(owner: Owner) -> None:
    """It is reported at Create."""
    annotate(owner, WARM | {"io.cryo.warm-when": "https://:443/"})

    with pytest.raises(InvalidArgument, match="not a readiness check"):
        await owner.tasks.create(owner.request())


async def test_old_fingerprints_go(owner: Owner, saver: Saver) -> None:
    """Of the templates that had the name, a few of the newest are kept."""
    for number in range(6):
        annotate(owner, WARM, process={"args": [f"/bin/{number}"], "cwd": "/"})
        await owner.tasks.create(owner.request())
        await owner.tasks.start(owner.ref())
        await background(owner)
        await end(owner)

    assert len(saver.saved) == 6
    assert len(images(owner).fingerprints()) == 4


async def test_an_operator_saves(owner: Owner, saver: Saver) -> None:
    """A task without annotations is saved under a name, which a container can then be made from."""
    await owner.running()

    await owner.tasks.warm.save(owner.ref(), NAME, lambda _: None)

    await end(owner)
    annotate(owner, {"io.cryo.restore": NAME})
    await owner.tasks.create(owner.request())
    assert owner.tasks._task(owner.ref()).record.image_path


async def test_an_operator_meets_a_save(owner: Owner, saver: Saver) -> None:
    """A name is saved by one at a time; the second caller gets that as an error."""
    await owner.running()
    saver.gate = asyncio.Event()
    first = asyncio.create_task(owner.tasks.warm.save(owner.ref(), NAME, lambda _: None))
    await asyncio.wait_for(saver.begun.wait(), WAIT_S)

    with pytest.raises(Busy, match="being saved as llama"):
        await owner.tasks.warm.save(owner.ref(), NAME, lambda _: None)
    saver.gate.set()
    await first


def test_names_are_dropped(owner: Owner) -> None:
    """Images, locks and counters of a name go; a task's own images below the folder stay."""
    named = images(owner)
    mine = Fingerprint(parts={"a": 1})
    sealed(named.new_image(mine, utcnow()))
    named_use.count(named.folder, named_use.NameOutcome.HIT)
    beside = named.folder / "20261129T000000.000000Z"
    sealed(beside)

    assert named.drop(VerifyCache(Path(owner.config.paths.verified))) == 1

    assert list(named.folder.iterdir()) == [beside]
