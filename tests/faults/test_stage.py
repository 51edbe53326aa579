"""Faults of a checkpoint by way of a stage in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import ResourceExhausted
from shim.model import Stage, Verify
from tests.faults import trap
from tests.faults.cases import ALL, on, spread
from tests.faults.judge import TASK
from tests.faults.rig import ROOM_BYTES, Rig
from tests.faults.trap import Deed, Trap

pytestmark = pytest.mark.timeout(600)

# More than the estimate of an image exceeds it by.
_MORE_MIB = 320
_MORE = "/dev/shm/more"


def _halt(rig: Rig, point: str, nth: int = 1) -> None:
    trap.put(rig.sim.trap_file, Trap(deed=Deed.HALT, point=point, nth=nth))


def _open_in_sandbox(rig: Rig, device: int) -> list[str]:
    """List the files of a stage that the sandbox has open."""
    [pid] = rig.sandboxes()
    links = Path(f"/proc/{pid}/fd").iterdir()
    return [link.name for link in links if link.stat().st_dev == device]


@on(*ALL)
def test_the_task_runs_while_the_image_is_copied(rig: Rig) -> None:
    """Every process is thawed when the copy begins."""
    image = rig.new_image()
    _halt(rig, "image.copy:before")
    future = rig.begin(image, stage=Stage.MEMORY)
    rig.until_halted()

    device = int(rig.journal()["stage_device"])
    assert device
    assert _open_in_sandbox(rig, device) == []
    rig.assert_thawed()
    assert not image.exists()
    trap.remove(rig.sim.trap_file)
    rig.resume()

    assert future.result(150).stage == "memory"
    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@spread("point", ("image.stage:after", "image.copy:before", "image.copy:after"))
def test_the_sidecar_is_killed(rig: Rig, point: str) -> None:
    """The memory is free, the part on the disk is removed, and the task runs."""
    image = rig.new_image()
    _halt(rig, point)
    rig.begin(image, stage=Stage.MEMORY)
    rig.until_halted()

    rig.crash()
    trap.remove(rig.sim.trap_file)
    rig.serve_again()

    rig.assert_unharmed(saved=False)
    assert not image.exists()


@on(*ALL)
def test_the_sidecar_is_killed_during_the_save(rig: Rig) -> None:
    """The sandbox ends the save into memory that nothing else has; then that is free."""
    image = rig.new_image()
    rig.halt_at(saving=True)
    rig.begin(image, stage=Stage.MEMORY)
    rig.until_halted()
    device = int(rig.journal()["stage_device"])

    rig.crash()
    rig.serve_again()

    rig.assert_unharmed()
    assert _open_in_sandbox(rig, device) == []
    assert not image.exists()


@on(*ALL)
def test_the_disk_fills_up_during_the_copy(rig: Rig) -> None:
    """The checkpoint fails, nothing is left of it, and the task runs."""
    disk = rig.small_disk(ROOM_BYTES)
    _halt(rig, "image.copy:before")
    future = rig.begin(disk / "image", stage=Stage.MEMORY)
    rig.until_halted()

    rig.fill(disk)
    rig.assert_thawed()
    trap.remove(rig.sim.trap_file)
    rig.resume()

    error = future.exception(150)
    assert isinstance(error, ResourceExhausted), error
    rig.empty(disk, ROOM_BYTES)
    assert rig.listing(disk) == []
    rig.assert_unharmed()


@on(*ALL)
def test_the_image_is_larger_than_its_stage(rig: Rig) -> None:
    """It is saved to the disk by the same checkpoint."""
    image = rig.new_image()
    _halt(rig, "image.stage:after")
    future = rig.begin(image, stage=Stage.MEMORY)
    rig.until_halted()

    grown = rig.inside.exec(TASK, ["/bin/sh", "-c", f"head -c {_MORE_MIB}M /dev/urandom >{_MORE}"])
    assert grown.status == 0, grown.err
    trap.remove(rig.sim.trap_file)
    rig.resume()

    made = future.result(150)
    assert made.stage == "disk"
    assert "took more memory" in made.stage_reason
    assert rig.client.verify(str(image), Verify.FULL)["digest"] == made.digest
    assert rig.inside.exec(TASK, ["/bin/rm", _MORE]).status == 0
    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)
