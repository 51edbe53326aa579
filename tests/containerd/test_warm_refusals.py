"""Images by name that cannot be used, through containerd: cold with an event, or a refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shim.simgpu.remote import Ran
from shim.simgpu.simulation import Settings, Simulation
from tests.builds import RunscBuild
from tests.containerd import gpu
from tests.containerd.cryo import COUNT, RUNTIME, Cryo
from tests.containerd.image import REFERENCE
from tests.containerd.named import annotated, damaged, named
from tests.containerd.records.client import edit_spec
from tests.containerd.warned import warnings_of

pytestmark = pytest.mark.usefixtures("nothing_left")

READY = "/tmp/ready"
NEVER = "io.cryo.warm-when=file:/tmp/never"
COUNTS = ("sh", "-c", COUNT)
WORKLOAD = Settings(processes=1, period_s=0.25)
MISSING = "there is no image named {name}"
SAVE_ONE = "cryo warm save {name} TASK"
DIFFERS = "no image named {name} fits this container; the newest one differs: "
MAKE_EQUAL = "save an image of this container under the name, or remove the difference"


class Template:
    """Containers of one template, the first of which is saved under a name."""

    def __init__(self, cryo: Cryo, sim: Simulation, *, with_gpu: bool) -> None:
        self.cryo = cryo
        self.sim = sim
        self.name = cryo.fresh("template")
        self.command = tuple(gpu.workload(WORKLOAD)) if with_gpu else COUNTS
        self._with_gpu = with_gpu
        self.image = Path()

    def save(self) -> None:
        """Start a container, and wait until it is saved."""
        when = (f"io.cryo.warm={self.name}", f"io.cryo.warm-when=file:{READY}")
        with self.container(*when) as (box, started):
            assert started.status == 0, started.err
            if self._with_gpu:
                self.sim.until_ready(gpu.CtrGuest(self.cryo), box)
            self.cryo.exec(box, "touch", READY)
            self.image = named(self.cryo, self.name).until_saved()

    @contextlib.contextmanager
    def container(self, *annotations: str) -> Iterator[tuple[str, Ran]]:
        """Run a container for the duration of the context; its start may fail."""
        box, flags = self.cryo.fresh("box"), annotated(*annotations)
        with self.cryo.removing(box):
            if self._with_gpu:
                yield box, self._run_with_gpu(box, flags)
            else:
                yield box, self.cryo.run(box, *self.command, flags=("-d", *flags), check=False)

    def _run_with_gpu(self, box: str, flags: tuple[str, ...]) -> Ran:
        cryo = self.cryo
        how = ("--runtime", RUNTIME, "--snapshotter", "native", *flags)
        how += gpu.image_flags(self.sim)
        cryo.ctr("containers", "create", *how, REFERENCE, box, *self.command)
        edit_spec(cryo.address, cryo.namespace, box, gpu.give_gpu)
        return cryo.ctr("tasks", "start", "--detach", box, check=False)

    def is_restored(self, box: str) -> bool:
        """Whether a container was made from the image."""
        return self.cryo.exec(box, "ls", READY, check=False).status == 0


@dataclass(frozen=True)
class World:
    """What a test can change, so that an image does not fit."""

    template: Template
    runsc_old: RunscBuild

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[None]:
        """Change nothing."""
        yield

    @contextlib.contextmanager
    def with_old_runsc(self) -> Iterator[None]:
        """Let new shims use the older runsc."""
        with self.template.cryo.using(self.runsc_old.path):
            yield

    @contextlib.contextmanager
    def with_damage(self) -> Iterator[None]:
        """Change a byte of the image."""
        with damaged(self.template.image / "pages.img"):
            yield

    @contextlib.contextmanager
    def without_image(self) -> Iterator[None]:
        """Take the image away."""
        with self._moved(self.template.image, self.template.cryo.folder / "scratch" / "moved"):
            yield

    @contextlib.contextmanager
    def in_another_namespace(self) -> Iterator[None]:
        """Give the image, with its name, to another containerd namespace."""
        of_template = self.template.image.parent
        name = of_template.parent
        other = name.parents[1] / "elsewhere" / name.name
        other.mkdir(parents=True)
        with self._moved(of_template, other / of_template.name):
            yield

    @contextlib.contextmanager
    def with_another_driver(self) -> Iterator[None]:
        """Install another driver."""
        sim, usual = self.template.sim, self.template.sim.driver
        sim.set_driver(580)
        try:
            yield
        finally:
            sim.set_driver(usual)

    @contextlib.contextmanager
    def of_another_template(self) -> Iterator[None]:
        """Let containers have another command line."""
        usual = self.template.command
        self.template.command = ("sh", "-c", f"true; {COUNT}")
        try:
            yield
        finally:
            self.template.command = usual

    @contextlib.contextmanager
    def _moved(self, path: Path, to: Path) -> Iterator[None]:
        path.rename(to)
        try:
            yield
        finally:
            to.rename(path)


Change = Callable[[World], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """Why an image is not used: what is changed after the save, and what is said of it.

    Of an image that is only `missing` a warm start makes the first one, without a warning.
    """

    change: Change
    why: str
    remedy: str
    saved: Change = World.as_saved
    missing: bool = False
    with_gpu: bool = False


CASES = {
    "damaged": Case(World.with_damage, "pages.img", "copy the image again"),
    "gone": Case(World.without_image, MISSING, SAVE_ONE, missing=True),
    "namespace": Case(World.in_another_namespace, MISSING, SAVE_ONE, missing=True),
    "template": Case(
        World.of_another_template, f"{DIFFERS}spec process.args (lacks i=0", MAKE_EQUAL
    ),
    "driver": Case(
        World.with_another_driver, f"{DIFFERS}NVIDIA driver (saved 5", MAKE_EQUAL, with_gpu=True
    ),
    "older-runsc": Case(World.with_old_runsc, f"{DIFFERS}runsc (saved ", MAKE_EQUAL),
    "newer-runsc": Case(
        World.as_saved, f"{DIFFERS}runsc (saved ", MAKE_EQUAL, saved=World.with_old_runsc
    ),
}
SHORT = ("template", "older-runsc")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SHORT else pytest.mark.long) for kind in CASES]
)
def test_an_image_that_cannot_be_used(
    cryo: Cryo, simulation: Simulation, runsc_old: RunscBuild, kind: str
) -> None:
    """`warm` and `if-possible` start cold, with one event that says why; `always` refuses.

    With things as they were at the save, the image is used.
    """
    case = CASES[kind]
    template = Template(cryo, simulation, with_gpu=case.with_gpu)
    world = World(template, runsc_old)
    with case.saved(world):
        template.save()
    why, remedy = (text.format(name=template.name) for text in (case.why, case.remedy))
    only = f"io.cryo.restore={template.name}"
    with case.change(world), warnings_of(cryo) as warned:
        cold = f"started cold instead of from the image {template.name}: "
        with (
            template.container(f"io.cryo.warm={template.name}", NEVER) as warm,
            template.container(only, "io.cryo.restore-policy=if-possible") as possible,
        ):
            for box, started in (warm, possible):
                assert started.status == 0, started.err
                assert not template.is_restored(box)
            text = warned.until(possible[0])
            assert text.startswith(cold)
            assert why in text
            if not case.missing:
                assert warned.until(warm[0]) == text
        assert case.missing == (warned.of(warm[0]) == [])
        with template.container(only) as (box, refused):
            assert refused.status != 0
            assert why in refused.err
            assert remedy in refused.err
            assert cryo.status(box) in ("", "STOPPED")
            assert warned.of(box) == []
    with case.saved(world), template.container(only) as (box, started):
        assert started.status == 0, started.err
        assert template.is_restored(box)
