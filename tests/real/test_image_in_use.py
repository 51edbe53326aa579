"""Removals of an image that is being loaded: commands refuse, and `rm` leaves nothing half done."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from shim.errors import Busy, ImageCorrupt
from shim.model import Verify
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.gated import gated
from tests.half_loaded import FILL, FILL_BYTES, HELD_BACK, is_in_use
from tests.real.helpers_rig import WAIT_S, Background, Rig, refused
from tests.real.test_warm_commands import Typed

pytestmark = pytest.mark.timeout(120)
_names = itertools.count()


@pytest.fixture
def typed(rig: Rig) -> Typed:
    """Give commands on a name under which a container is saved."""
    made = Typed(rig, f"in-use-{next(_names)}")
    rig.program("saved", "/bin/sh", "-c", FILL)
    ready = ["/bin/test", "-e", "/tmp/ready"]
    wait_until(lambda: rig.behind.exec("saved", ready).status == 0, "the data", WAIT_S)
    made.good("warm", "save", made.warm.name, "saved")
    rig.end("saved")
    return made


@pytest.fixture
def image(typed: Typed) -> Path:
    """Give its image."""
    (found,) = typed.warm.images()
    return found


def test_commands_refuse_while_an_image_is_loaded(rig: Rig, typed: Typed, image: Path) -> None:
    """The restore ends well, and afterwards the name can be dropped."""
    commands = (("checkpoints", "delete", str(image)), ("warm", "drop", typed.warm.name))
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image, verify=Verify.NONE))
        gate.until_asked()

        for command in commands:
            refusal = typed(*command)
            assert refusal.returncode != 0
            assert f"image {image} is in use" in refusal.stderr

        gate.open()
        restore.result()
    assert typed.warm.view("copy").state is TaskState.RUNNING
    typed.good(*commands[1])
    assert typed.warm.images() == []
    assert rig.end("copy").status == 137


@pytest.mark.long
def test_an_image_that_is_removed_by_hand(rig: Rig, image: Path) -> None:
    """The restore fails, names the file that is missing, and leaves nothing."""
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image, verify=Verify.NONE))
        gate.until_asked()
        shutil.rmtree(image)
        gate.open()

        error = refused(ImageCorrupt, restore.result)

    assert "is missing" in error.message
    assert rig.client.list() == []


# An older one loads nothing in the background.
@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_an_image_is_in_use_until_all_of_it_is_loaded(rig: Rig, typed: Typed, image: Path) -> None:
    """With --background the container runs before that; the lock survives the sidecar."""
    with gated(rig.sim, image / "pages.img", HELD_BACK) as gate:
        rig.restore("copy", image, verify=Verify.NONE, background=True)
        gate.until_asked()

        assert typed.warm.view("copy").state is TaskState.RUNNING
        refused(Busy, lambda: rig.client.remove(str(image)))
        rig.crash()
        refused(Busy, lambda: rig.client.drop_name(typed.warm.name))

        gate.open()
        wait_until(lambda: not is_in_use(image), "the end of the load", WAIT_S)
    assert rig.client.drop_name(typed.warm.name) == 1
    assert rig.end("copy").status == 137


@pytest.mark.long
@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_an_image_that_is_removed_while_it_is_loaded_in_the_background(
    rig: Rig, image: Path
) -> None:
    """The container has its memory all the same: the sandbox has the files open."""
    with gated(rig.sim, image / "pages.img", HELD_BACK) as gate:
        rig.restore("copy", image, verify=Verify.NONE, background=True)
        shutil.rmtree(image)
        gate.open()

        counted = rig.behind.exec("copy", ["/bin/sh", "-c", "cat /tmp/data | wc -c"]).out
        assert int(counted) == FILL_BYTES
    assert rig.end("copy").status == 137
