"""The store of images is killed at each step of a change, and its disk is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import CryoError, NotFound, ResourceExhausted
from shim.model import Verify
from shim.simgpu.simulation import wait_until
from tests.faults import trap
from tests.faults.cases import NEW_PHASED, NEW_STEPS, on
from tests.faults.rig import ROOM_BYTES, Rig
from tests.faults.trap import Deed, Trap

pytestmark = pytest.mark.timeout(600)
NAME = "llama:warm"
_STEPS = {
    "tag": ("image.label", "image.index"),
    "untag": ("image.label", "image.index"),
    "remove": ("image.remove", "image.erase"),
    "prune": ("image.remove", "image.erase"),
}
# A name is taken as it is given, and an image pruned as it is removed.
_LONG = ("untag", "prune")
KILLS = [
    pytest.param(what, f"{point}:{side}", marks=pytest.mark.long if what in _LONG else ())
    for what, points in _STEPS.items()
    for point in points
    for side in ("before", "after")
]


@pytest.fixture
def images(rig: Rig) -> Iterator[tuple[Path, Path]]:
    """Give two images of the task, the first of which has a name."""
    made = rig.new_image(), rig.new_image()
    for image in made:
        rig.checkpoint(image)
    rig.client.tag(str(made[0]), NAME)
    yield made
    trap.remove(rig.sim.trap_file)
    for view in rig.client.images():
        rig.client.remove(view.path)


@on(NEW_PHASED)
@pytest.mark.parametrize(("what", "point"), KILLS)
def test_the_sidecar_is_killed(rig: Rig, images: tuple[Path, Path], what: str, point: str) -> None:
    """A name refers to one complete image or to none, and the remains of a removal are removed."""
    first, second = images
    change: dict[str, Callable[[], Any]] = {
        "tag": lambda: rig.client.tag(str(second), NAME),
        "untag": lambda: rig.client.untag(str(first), NAME),
        "remove": lambda: rig.client.remove(NAME),
        "prune": lambda: rig.client.prune(quota_bytes=0),
    }
    trap.put(rig.sim.trap_file, Trap(deed=Deed.KILL, point=point))

    with pytest.raises(CryoError):
        change[what]()
    rig.serve_again()

    wait_until(lambda: not rig.stagings(), "the clean-up", 60)
    there = {Path(view.path): view for view in rig.client.images()}
    for path in there:
        assert rig.client.verify(str(path), Verify.FULL)["digest"]
    named = [path for path, view in there.items() if NAME in view.names.get("default", ())]
    try:
        digest = rig.client.inspect(NAME)["digest"]
    except NotFound:
        assert what != "tag"
        assert named == []
    else:
        assert digest in {there[path].digest for path in named}
    if what in ("tag", "untag"):
        assert {first, second} <= there.keys()
    rig.assert_unharmed(saved=False)


@on(NEW_STEPS)
def test_a_disk_that_is_too_small_for_all(rig: Rig) -> None:
    """On a disk with space for a few images many are made: those that were not used make space."""
    disk = rig.small_disk(ROOM_BYTES)
    with rig.served_with(paths={"images": str(disk)}, store={"min_free": "4MiB"}):
        made = [_checkpoint(rig, disk)]
        rig.client.pin(made[0])
        made.append(_checkpoint(rig, disk))
        while made[1] in _paths(rig) and len(made) < _MANY:
            made.append(_checkpoint(rig, disk))

        there = _paths(rig)
        assert made[0] in there
        assert made[1] not in there
        assert there >= set(made[-2:])
        assert rig.client.verify(made[-1], Verify.FULL)["digest"]
        for path in there:
            rig.client.pin(path)
        with pytest.raises(ResourceExhausted, match="images are pinned"):
            _pin_until_refused(rig, disk)
        assert there <= _paths(rig)
        assert [name for name in rig.listing(disk) if "staging" in name] == []
        rig.assert_unharmed(saved=False)


@on(NEW_STEPS)
def test_a_disk_that_is_really_full(rig: Rig) -> None:
    """Without a free byte images are found by name, listed, pruned and removed."""
    disk = rig.small_disk(ROOM_BYTES)
    with rig.served_with(paths={"images": str(disk)}):
        made = [_checkpoint(rig, disk) for _ in range(3)]
        rig.client.tag(made[2], NAME)
        assert rig.sim.remote.run(["rm", str(disk / ".cryo-index.json")]).status == 0
        rig.fill(disk)

        assert rig.client.inspect(NAME)["digest"]
        with pytest.raises(ResourceExhausted):
            rig.client.tag(made[1], "other")
        with pytest.raises(ResourceExhausted):
            _checkpoint(rig, disk)
        pruned = rig.client.prune(keep_last=1)
        assert [str(one.path) for one in pruned.removed] == [made[0]]
        assert rig.client.remove(NAME)
        assert _paths(rig) == {made[1]}
        rig.assert_unharmed(saved=False)


# More images than fit on the disk.
_MANY = 40


def _checkpoint(rig: Rig, disk: Path) -> str:
    """Make an image on a disk; return its path."""
    made = rig.checkpoint(disk / rig.new_image().name)
    return made.image_path


def _pin_until_refused(rig: Rig, disk: Path) -> None:
    for _ in range(_MANY):
        rig.client.pin(_checkpoint(rig, disk))


def _paths(rig: Rig) -> set[str]:
    return {view.path for view in rig.client.images()}
