"""Where runsc saves to, and why: a table of cases, and what is made of a choice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument, ResourceExhausted, Unimplemented
from shim.host import tmpfs
from shim.host.memory_promises import MemoryPromise, promise
from shim.model import CheckpointOptions, Stage
from shim.transaction import stage_choice
from shim.transaction.stage_choice import PROMISES, Room, choose, open_chosen
from tests.unit.fakes_guest import FakeGuest
from tests.unit.fakes_target import Scene, sleeping

GIB = 1 << 30
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
AMPLE = Room(page_cache_bytes=GIB, host_bytes=64 * GIB, cgroup_bytes=None, in_memory=False)


def _room(**changes: Any) -> Room:
    return AMPLE._replace(**changes)


@pytest.mark.parametrize(
    ("options", "room", "stage", "reason"),
    (
        ({}, AMPLE, "memory", "the page cache takes 1.0 GiB of it without a wait for the disk"),
        ({"seal": False}, AMPLE, "memory", "the page cache takes 1.0 GiB"),
        ({}, _room(page_cache_bytes=8 * GIB), "disk", "the page cache takes all of it"),
        ({"direct": True}, AMPLE, "disk", "--direct"),
        ({"compress": True}, AMPLE, "disk", "compression"),
        ({"exit": True}, AMPLE, "disk", "the task ends"),
        ({}, _room(in_memory=True), "disk", "in memory anyway"),
        ({}, _room(host_bytes=8 * GIB), "disk", "the host can spare 6.0 GiB"),
        ({}, _room(cgroup_bytes=6 * GIB), "disk", "the sandbox leaves 4.0 GiB"),
        ({}, _room(host_bytes=11 * GIB, cgroup_bytes=11 * GIB), "memory", "page cache"),
        ({}, _room(host_bytes=GIB), "disk", "the host can spare 0 B"),
    ),
)
def test_automatic_choice(options: dict[str, Any], room: Room, stage: str, reason: str) -> None:
    """An image of 8 GiB, for which a freeze takes 2 GiB of memory first."""
    found = choose(Stage.AUTO, CheckpointOptions(**options), room, 8 * GIB, 2 * GIB)

    assert found.stage == stage
    assert reason in found.reason


@pytest.mark.parametrize(
    "options", ({}, {"exit": True}, {"compress": True}), ids=("plain", "exit", "compress")
)
def test_memory_on_request(options: dict[str, Any]) -> None:
    """What a caller requests is not weighed, also where it gains nothing."""
    room = _room(page_cache_bytes=64 * GIB, in_memory=True)

    found = choose(Stage.MEMORY, CheckpointOptions(**options), room, 8 * GIB, 0)

    assert found == (Stage.MEMORY, "as requested")


@pytest.mark.parametrize("room", (_room(host_bytes=GIB), _room(cgroup_bytes=GIB)))
def test_memory_on_request_that_does_not_suffice(room: Room) -> None:
    """It is refused before the freeze, with the number of bytes and a remedy."""
    with pytest.raises(ResourceExhausted, match=r"8\.0 GiB of memory: .* 1\.0 GiB") as caught:
        choose(Stage.MEMORY, CheckpointOptions(), room, 8 * GIB, 0)

    assert "--stage disk" in caught.value.remedy


def test_memory_and_direct_are_not_combined() -> None:
    """One of them was a mistake."""
    with pytest.raises(InvalidArgument, match="page cache"):
        choose(Stage.MEMORY, CheckpointOptions(direct=True), AMPLE, GIB, 0)


@pytest.fixture
def ample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every measurement find that memory pays."""
    monkeypatch.setattr(stage_choice, "measure", lambda *_: _room(page_cache_bytes=0))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a task."""
    with sleeping() as process:
        yield Scene(tmp_path, process, FakeGuest([]))


def _open(scene: Scene, stage: Stage | None) -> tuple[Any, stage_choice.Choice]:
    return open_chosen(scene.target, CheckpointOptions(stage=stage), GIB, 0, scene.folder)


@needs_root
@pytest.mark.usefixtures("ample")
def test_two_stages_do_not_take_the_same_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise of the first ends once its memory is in use."""
    room = _room(page_cache_bytes=0, host_bytes=GIB + GIB // 2)
    monkeypatch.setattr(stage_choice, "measure", lambda *_: room)
    first, chosen = _open(scene, None)
    second, other = _open(scene, None)
    with pytest.raises(ResourceExhausted, match="other checkpoints leave"):
        _open(scene, Stage.MEMORY)

    assert (chosen.stage, other.stage, second) == (Stage.MEMORY, Stage.DISK, None)
    assert "other checkpoints leave" in other.reason
    first.saved()
    third, _ = _open(scene, Stage.MEMORY)
    first.close()
    third.close()


@pytest.mark.usefixtures("ample")
def test_kernel_without_detached_mounts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the disk is used, and the promise is taken back."""

    def refuse(_size: int) -> int:
        message = "this kernel makes no tmpfs"
        raise Unimplemented(message)

    monkeypatch.setattr(tmpfs, "_make", refuse)
    stage, choice = _open(scene, None)
    with pytest.raises(Unimplemented):
        _open(scene, Stage.MEMORY)

    assert (stage, choice) == (None, (Stage.DISK, "this kernel makes no tmpfs"))
    assert isinstance(promise(Path(scene.folder) / PROMISES, GIB, GIB), MemoryPromise)


def test_nothing_is_measured_for_the_disk(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit disk makes no file."""
    monkeypatch.delattr(stage_choice, "measure")

    assert _open(scene, Stage.DISK) == (None, (Stage.DISK, "as requested"))
    assert not (scene.folder / PROMISES).exists()


def test_room_of_this_machine(scene: Scene) -> None:
    """The real figures are plausible: there is a limit of dirty pages, and free memory."""
    room = stage_choice.measure(scene.target, scene.folder)

    assert room.page_cache_bytes >= 0
    assert room.host_bytes > 0
    assert stage_choice.measure(scene.target, Path("/dev/shm")).in_memory
