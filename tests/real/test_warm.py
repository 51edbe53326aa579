"""Warm starts through the sidecar: cold and saved when ready, then restored by name."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shim.client import Client
from shim.errors import HostMismatch, ImageCorrupt, NotFound
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, at_once, refused
from tests.real.machines import Machines

pytestmark = pytest.mark.timeout(240)
WAIT_S = 60.0
# Counts in memory, and in a file that each copy has in its own memory.
COUNTS = "i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done"
WHEN = {"io.cryo.warm-when": "file:/tmp/ready", "io.cryo.warm-period": "0.1"}
_names = itertools.count()


@pytest.fixture
def warm(rig: Rig) -> Warm:
    """Give the images of a name on the machine."""
    return Warm(rig, f"llama-{next(_names)}")


class Warm:
    """Containers of one name on one machine."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.folder = rig.sim.folder / "images" / "default" / name
        self.warm = {"io.cryo.warm": name, **WHEN}
        self.always = {"io.cryo.restore": name}

    def start(self, task: str, annotations: dict[str, str], script: str = COUNTS) -> str:
        """Start a shell script; return the image that it was restored from, empty if cold."""
        bundle = self.rig.bundle(task, ["/bin/sh", "-c", script])
        return self.start_bundle(task, bundle, annotations)

    def start_bundle(self, task: str, bundle: Path, annotations: dict[str, str]) -> str:
        """Start a bundle with annotations."""
        with self.rig.edited(bundle) as spec:
            spec["annotations"] = annotations
        self.rig.client.create(task, str(bundle))
        self.rig.client.start(task)
        view = self.view(task)
        assert view.state is TaskState.RUNNING
        return str(view.restored_from)

    def view(self, task: str) -> Any:
        """Return a line of the listing."""
        return next(one for one in self.rig.client.list() if one.id == task)

    def be_ready(self, task: str) -> None:
        """Make a container ready."""
        assert self.rig.behind.exec(task, ["/bin/touch", "/tmp/ready"]).status == 0

    def images(self) -> list[Path]:
        """List the images of the name, oldest first."""
        found = (path.parent for path in self.folder.glob("*/[0-9]*/cryo.json"))
        return sorted(found, key=lambda path: path.name)

    def until_saved(self, *, besides: Path | None = None) -> Path:
        """Wait for an image; return it."""

        def new() -> list[Path]:
            return [path for path in self.images() if path != besides]

        wait_until(lambda: bool(new()), "the save", WAIT_S)
        return new()[-1]

    def use(self) -> dict[str, Any]:
        """Return the counters."""
        found: dict[str, Any] = json.loads((self.folder / ".use.json").read_text("utf-8"))
        return found

    def counts(self, task: str) -> int:
        """Return the count of a container."""
        return int(self.rig.behind.exec(task, ["/bin/cat", "/tmp/count"]).out or 0)


def test_the_second_start_is_a_restore(warm: Warm) -> None:
    """The first is saved when it is ready; copies go on from there, each in its own memory."""
    assert warm.start("cold", warm.warm) == ""
    wait_until(lambda: warm.counts("cold") >= 5, "the count", WAIT_S)
    assert warm.images() == []
    warm.be_ready("cold")

    image = warm.until_saved()

    assert (
        at_once(lambda: warm.start("one", warm.warm), lambda: warm.start("two", warm.always))
        == [str(image)] * 2
    )
    assert warm.counts("one") >= 5
    assert warm.view("one").warning == ""
    assert warm.images() == [image]
    for task in ("cold", "one", "two"):
        assert warm.rig.end(task).status == 137


def test_an_image_of_another_node(warm: Warm, tmp_path: Path) -> None:
    """Pushed, removed, and pulled for the name, it is restored as one that was saved here."""
    client, layout = warm.rig.client, f"oci:{tmp_path}/layout"
    assert warm.start("cold", warm.warm) == ""
    wait_until(lambda: warm.counts("cold") >= 5, "the count", WAIT_S)
    warm.be_ready("cold")
    client.push(str(warm.until_saved()), layout)
    warm.rig.end("cold")
    client.drop_name(warm.name)

    pulled = client.pull(layout, warm=warm.name)

    assert warm.images() == [Path(pulled.image_path)]
    assert warm.start("one", warm.always) == pulled.image_path
    assert warm.counts("one") >= 5
    warm.rig.end("one")


def test_what_is_not_used_and_what_takes_its_place(warm: Warm) -> None:
    """Damage, and another template under the name: cold with the reason, or refused, by policy."""
    warm.start("first", warm.warm)
    warm.be_ready("first")
    old = warm.until_saved()
    (old / "pages.img").write_bytes(b"damaged")
    warm.rig.client.create("refused", str(annotated(warm, "refused", warm.always)))
    error = refused(ImageCorrupt, lambda: warm.rig.client.start("refused"))
    assert "pages.img" in error.message

    assert warm.start("second", warm.warm) == ""

    assert f"started cold instead of from the image {warm.name}: image {old}: pages.img" in (
        warm.view("second").warning
    )
    warm.be_ready("second")
    new = warm.until_saved(besides=old)
    wait_until(lambda: warm.images() == [new], "the removal of the damaged image", WAIT_S)
    other = COUNTS.replace("0.1", "0.2")
    bundle = annotated(warm, "third", warm.always, other)
    error = refused(HostMismatch, lambda: warm.rig.client.create("third", str(bundle)))
    assert "the newest one differs: spec process.args (lacks ..." in error.message
    assert "sleep 0.1; done, adds ..." in error.message
    assert "sleep 0.2; done)" in error.message
    assert warm.start("third", warm.warm, other) == ""
    assert warm.view("third").warning
    warm.be_ready("third")
    warm.until_saved(besides=new)
    assert warm.start("fourth", warm.always, other) != str(new)
    assert warm.start("fifth", warm.always) == str(new)
    found = warm.use()
    assert (found["saves"], found["failures"]) == (3, 0)
    assert {one["outcome"] for one in found["reasons"]} == {"misses", "refusals"}


def annotated(warm: Warm, task: str, annotations: dict[str, str], script: str = COUNTS) -> Path:
    """Write a bundle with annotations."""
    bundle = warm.rig.bundle(task, ["/bin/sh", "-c", script])
    with warm.rig.edited(bundle) as spec:
        spec["annotations"] = annotations
    return bundle


def test_ten_at_once_and_the_next_owner(warm: Warm) -> None:
    """Of many that are ready at once one is saved, also when the sidecar was killed meanwhile."""
    tasks = [f"t{number}" for number in range(10)]
    for task in tasks:
        assert warm.start(task, warm.warm) == ""
    warm.rig.crash()
    at_once(*(lambda task=task: warm.be_ready(task) for task in tasks))

    image = warm.until_saved()

    wait_until(lambda: warm.use()["skips"] == len(tasks) - 1, "the others", WAIT_S)
    wait_until(lambda: warm.use()["saves"] == 1, "the count of the save", WAIT_S)
    assert warm.images() == [image]
    assert warm.start("late", warm.warm) == str(image)


def test_gpu_processes(warm: Warm) -> None:
    """GPU memory comes back as well; another driver or model makes another fingerprint."""
    rig = warm.rig
    bundle = rig.sim.bundle("gpu", rig.settings(processes=2), inject_tool=False)
    when = {"io.cryo.warm": warm.name, "io.cryo.warm-when": "file:/tmp/ready"}
    assert warm.start_bundle("gpu", bundle, when) == ""
    rig.sim.until_ready(rig.guest, "gpu")
    warm.be_ready("gpu")
    warm.until_saved()

    assert warm.start_bundle("copy", bundle, when) != ""

    assert rig.fine("copy")
    assert rig.fine("gpu")
    usual = rig.sim.driver
    rig.sim.set_driver(580)
    try:
        only = {"io.cryo.restore": warm.name}
        error = refused(HostMismatch, lambda: warm.start_bundle("refused", bundle, only))
        assert f"NVIDIA driver (saved {usual}." in error.message
        if_possible = {**only, "io.cryo.restore-policy": "if-possible"}
        assert warm.start_bundle("other", bundle, if_possible) == ""
        assert "NVIDIA driver" in warm.view("other").warning
    finally:
        rig.sim.set_driver(usual)


def test_gone_and_of_another_namespace(warm: Warm) -> None:
    """Neither is used: cold with the reason, or refused with a sentence, by policy."""
    warm.start("first", warm.warm)
    warm.be_ready("first")
    image = warm.until_saved()
    elsewhere = Client(warm.rig.sim.address, namespace="elsewhere")
    bundle = annotated(warm, "other", warm.always)
    error = refused(NotFound, lambda: elsewhere.create("other", str(bundle)))
    assert f"there is no image named {warm.name}" in error.message
    elsewhere.close()
    warm.rig.client.remove(str(image))
    error = refused(NotFound, lambda: warm.start("refused", warm.always))
    assert f"there is no image named {warm.name}" in error.message
    if_possible = {**warm.always, "io.cryo.restore-policy": "if-possible"}
    assert warm.start("cold", if_possible) == ""
    assert f"there is no image named {warm.name}" in warm.view("cold").warning


def test_an_image_of_another_runsc(
    warm: Warm, machines: Machines, runsc_new: RunscBuild, runsc_old: RunscBuild
) -> None:
    """It is not used on a node with another one: cold with both versions, or refused."""
    warm.start("first", warm.warm)
    warm.be_ready("first")
    warm.until_saved()
    other_build = runsc_old if warm.rig.build == runsc_new else runsc_new
    other = Warm(machines.get(other_build), warm.name)
    shutil.copytree(warm.folder, other.folder)
    try:
        error = refused(HostMismatch, lambda: other.start("refused", other.always))
        assert "the newest one differs: runsc (saved " in error.message
        if_possible = {**other.always, "io.cryo.restore-policy": "if-possible"}
        assert other.start("cold", if_possible) == ""
        assert error.message in other.view("cold").warning
    finally:
        other.rig.clear()
