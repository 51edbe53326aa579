"""The main job through the sidecar and its client: freeze, checkpoint, restore, thaw."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.model import Phase
from shim.state import TaskState
from tests.real.helpers_rig import Rig, at_once, refused

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("processes", (1, 2, 8))
def test_running_task_is_saved_and_runs_on(rig: Rig, engine: str, processes: int) -> None:
    """Original and restored copy are whole; every process was frozen once and thawed twice."""
    pids = rig.workload("job", processes=processes).pids

    made = rig.checkpoint("job", engine)
    back = rig.restore("copy", made.image_path)

    assert (made.engine, made.warnings, back.engine) == (engine, (), engine)
    assert [p.pid for p in made.processes] == sorted(pids) == [p.pid for p in back.processes]
    assert rig.fine("job")
    assert rig.fine("copy")
    calls = [call.action for call in rig.sim.calls()]
    assert calls.count("checkpoint") == processes
    assert calls.count("unlock") == 2 * processes
    assert rig.sim.status(rig.guest, "copy").node == "job"


def test_paused_task_stays_paused(rig: Rig, engine: str) -> None:
    """A task that was paused is paused afterwards, and fine when it is resumed."""
    rig.workload("job", processes=2)
    rig.client.pause("job")

    made = rig.checkpoint("job", engine)

    assert rig.client.state("job").state is TaskState.PAUSED
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")
    assert rig.client.state("job").state is TaskState.PAUSED
    rig.client.resume("job")
    assert rig.fine("job")


def test_exit_ends_the_task(rig: Rig, engine: str) -> None:
    """With exit the task is over and its GPU memory free; its id can be restored into at once."""
    rig.workload("job", processes=2)

    made = rig.checkpoint("job", engine, exit=True)

    assert rig.client.state("job").state is TaskState.STOPPED
    assert rig.sim.device()["used_bytes"] == 0
    rig.client.delete("job")
    rig.restore("job", made.image_path)
    assert rig.fine("job")


def test_two_copies_at_once(rig: Rig, engine: str) -> None:
    """Two restores of one image at the same time give two tasks with memory of their own."""
    rig.workload("job", processes=2)
    image = rig.checkpoint("job", engine, exit=True).image_path

    at_once(lambda: rig.restore("a", image), lambda: rig.restore("ab", image))

    assert at_once(lambda: rig.fine("a"), lambda: rig.fine("ab")) == [True, True]
    assert len(rig.sim.device()["allocations"]) == 4


def test_second_generation(rig: Rig, engine: str) -> None:
    """What was restored can be checkpointed and restored again."""
    rig.workload("job")
    first = rig.checkpoint("job", engine, exit=True).image_path
    rig.restore("second", first)
    second = rig.checkpoint("second", engine, exit=True).image_path
    rig.restore("third", second)

    assert rig.fine("third")


def test_restored_by_another_sidecar(rig: Rig, engine: str) -> None:
    """A sidecar that was stopped or killed and started again restores what the last one made."""
    rig.workload("job", processes=2)
    image = rig.checkpoint("job", engine).image_path

    assert rig.sim.stop_sidecar(signal.SIGTERM) == 0
    rig.start_sidecar()
    rig.restore("after-stop", image)
    rig.crash()
    rig.restore("after-kill", image)

    assert [rig.fine(name) for name in ("job", "after-stop", "after-kill")] == [True] * 3


def test_image_in_another_folder(rig: Rig, tmp_path: Path) -> None:
    """A copied image is read whole once, then known; a moved one need not be read again."""
    rig.workload("job")
    image = Path(rig.checkpoint("job", exit=True).image_path)
    size = int(rig.client.images()[0].size_bytes)
    copied, moved = tmp_path / "copied", rig.sim.folder / "moved"
    shutil.copytree(image, copied)

    assert rig.bytes_read("sealed", image) == 0
    assert rig.bytes_read("first", copied) == size
    assert rig.bytes_read("again", copied) == 0
    image.rename(moved)
    rig.bytes_read("moved", moved)
    assert all(rig.fine(name) for name in ("sealed", "first", "again", "moved"))


def test_task_without_gpu(rig: Rig) -> None:
    """Without a GPU no CUDA step is taken; memory and files come back all the same."""
    rig.workload("job", gpu=False, resident_mib=16)

    made = rig.checkpoint("job")
    rig.restore("copy", made.image_path)

    assert (made.engine, made.processes) == ("", ())
    assert not {Phase.FREEZE, Phase.LOCK, Phase.THAW} & set(made.timings_s)
    assert rig.fine("job")
    assert rig.fine("copy")
    assert rig.sim.calls() == []


def test_any_container(rig: Rig) -> None:
    """A container of another program is saved and restored like any, paused or not."""
    rig.sleeper("job")
    image = rig.checkpoint("job").image_path
    rig.client.pause("job")
    paused = rig.checkpoint("job").image_path
    rig.restore("copy", image)
    rig.restore("second", paused)

    assert [v.state.value for v in rig.client.list()] == ["running", "paused", "running"]
    for name in ("job", "copy", "second"):
        assert rig.end(name, signal.SIGKILL).status == 137


def test_uncompressed_compressed_and_unsealed(rig: Rig) -> None:
    """A compressed and an unsealed image restore as any; the compressed one is smaller."""
    rig.workload("job", gpu=False, resident_mib=8)
    plain = rig.checkpoint("job")
    small = rig.checkpoint("job", compress=True)
    quick = rig.checkpoint("job", seal=False)

    assert small.size_bytes < plain.size_bytes
    rig.restore("small", small.image_path)
    rig.restore("quick", quick.image_path)
    assert rig.fine("small")
    assert rig.fine("quick")


def test_images_are_listed_inspected_and_removed(rig: Rig) -> None:
    """An image lies below the configured folder under its task, and is gone once removed."""
    rig.sleeper("job")
    first, second = rig.checkpoint("job"), rig.checkpoint("job")

    listed = rig.client.images()
    assert [view.path for view in listed] == [second.image_path, first.image_path]
    assert rig.client.inspect(first.image_path)["digest"] == first.digest
    assert rig.client.verify(first.image_path)["task"] == "job"
    rig.client.remove(first.image_path)
    assert [view.path for view in rig.client.images()] == [second.image_path]
    refused(NotFound, lambda: rig.client.inspect(first.image_path))
