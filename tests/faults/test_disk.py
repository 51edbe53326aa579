"""The disk is full: that of the images, at each step, and that of the state directory."""

from __future__ import annotations

import pytest

from shim.errors import ResourceExhausted
from shim.model import Verify
from tests.faults.cases import ALL, on, spread
from tests.faults.rig import ROOM_BYTES, Rig

pytestmark = pytest.mark.timeout(600)


@on(*ALL)
def test_a_disk_that_is_too_small(rig: Rig) -> None:
    """If the free space is too small, the checkpoint fails before it changes anything."""
    disk = rig.small_disk(8 << 20)

    with pytest.raises(ResourceExhausted, match="may need") as caught:
        rig.checkpoint(disk / "image")

    assert caught.value.remedy
    assert {call.action for call in rig.sim.calls()} <= {"get-state"}
    assert rig.listing(disk) == []
    rig.assert_unharmed(saved=False)


@spread("phase", ("save", "seal", "commit"))
def test_a_disk_that_fills_up(rig: Rig, phase: str) -> None:
    """The disk fills up after the preflight: before the save, the seal or the commit."""
    disk = rig.small_disk(ROOM_BYTES)
    rig.halt_at(phase=phase)
    future = rig.begin(disk / "image")
    rig.until_halted()

    rig.fill(disk)
    rig.resume()

    # A rename needs no space, so a commit succeeds.
    error = future.exception(150)
    assert isinstance(error, ResourceExhausted) is (phase != "commit"), error
    rig.empty(disk, ROOM_BYTES)
    rig.assert_unharmed(saved=phase == "save")
    if phase == "commit":
        assert rig.client.verify(str(disk / "image"), Verify.FULL)["digest"]
    else:
        assert rig.listing(disk) == []


@spread("point", ("thaw", "save", "preflight"))
def test_no_space_for_our_own_state(rig: Rig, point: str) -> None:
    """If the journal can no longer be written, the checkpoint fails, but not its rollback."""
    image = rig.new_image()
    rig.halt_at(phase=point)
    future = rig.begin(image)
    rig.until_halted()

    rig.fill(rig.sim.folder / "state")
    rig.resume()

    error = future.exception(150)
    assert isinstance(error, ResourceExhausted), error
    assert not image.exists()
    rig.empty(rig.sim.folder / "state", ROOM_BYTES)
    rig.assert_unharmed()
