"""What is recorded of an operation, and what is kept of it with the task and the image."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from shim.errors import CryoError
from shim.host import command_times
from shim.image import side_files, speeds, timelines
from shim.image.verify import read_manifest
from shim.model import MAX_SPANS, Phase, Progress, Span, Timeline
from shim.runsc.run import run
from shim.transaction import timeline_file
from shim.transaction.recorder import Recorder
from tests.unit.image_helpers import sealed


def progress(phase: Phase, pid: int, took_s: float) -> Progress:
    """Make the report of a step of a process."""
    return Progress(phase=phase, pid=pid, pid_state="x", took_s=took_s)


def test_phases_are_recorded_also_if_they_fail() -> None:
    """The phase that failed is the one that matters most."""
    recorder = Recorder("checkpoint", "a")

    with pytest.raises(CryoError), recorder.step(Phase.SAVE):
        raise CryoError("the disk is full")

    found = recorder.timeline(CryoError("the disk is full"))
    assert [span.phase for span in found.spans] == [Phase.SAVE]
    assert (found.operation, found.task, found.error) == ("checkpoint", "a", "the disk is full")


async def test_commands_of_tasks_are_recorded() -> None:
    """A command of a task that was begun inside is one of the operation, in its phase."""
    recorder = Recorder("checkpoint", "a")

    async def work() -> None:
        with recorder.step(Phase.PREFLIGHT):
            await asyncio.gather(run(["true"], timeout_s=10), run(["true"], timeout_s=10, name="x"))

    with recorder.commands():
        task = asyncio.ensure_future(work())
    await task
    await run(["true"], timeout_s=10)

    found = [(span.phase, span.name) for span in recorder.recorded if not span.is_phase]
    assert sorted(found) == [(Phase.PREFLIGHT, "true"), (Phase.PREFLIGHT, "x")]


def test_a_command_that_fails_is_recorded() -> None:
    """Its time was used."""
    recorder = Recorder("checkpoint", "a")

    with pytest.raises(CryoError), recorder.commands(), command_times.command("runsc save"):
        raise CryoError("no")

    assert [span.name for span in recorder.recorded] == ["runsc save"]


def test_the_steps_of_a_batch_follow_each_other() -> None:
    """They are reported together at its end, and are shown one after the other."""
    recorder = Recorder("checkpoint", "a")
    asyncio.run(asyncio.sleep(0.05))

    for phase, took_s in ((Phase.LOCK, 0.01), (Phase.FREEZE, 0.02), (Phase.THAW, 0.005)):
        recorder.progress(progress(phase, 7, took_s))
        recorder.progress(progress(phase, 8, took_s))

    mine = sorted((s for s in recorder.recorded if s.pid == 7), key=lambda span: span.start_s)
    assert [span.phase for span in mine] == [Phase.LOCK, Phase.FREEZE, Phase.THAW]
    for one, after in pairwise(mine):
        assert one.start_s + one.duration_s <= after.start_s + 2e-6


def test_a_timeline_stays_small() -> None:
    """There is room for every phase, however many processes there are."""
    recorder = Recorder("checkpoint", "a")

    for pid in range(1, 2 * MAX_SPANS):
        recorder.progress(progress(Phase.FREEZE, pid, 0.001))
    with recorder.step(Phase.SAVE):
        pass

    assert len(recorder.recorded) <= MAX_SPANS
    assert any(span.phase is Phase.SAVE for span in recorder.recorded)


def test_nothing_is_kept_after_the_end() -> None:
    """A background task that the operation left behind adds nothing, and keeps no memory."""
    recorder = Recorder("checkpoint", "a")
    with recorder.step(Phase.SAVE):
        pass
    recorder.close()
    with recorder.commands(), command_times.command("late"):
        pass

    assert recorder.recorded == ()


def test_the_last_operations_are_kept_with_the_task(tmp_path: Path) -> None:
    """The oldest are dropped, and another owner reads the same."""
    for number in range(timeline_file.KEPT + 3):
        timeline_file.add(tmp_path, Recorder(f"checkpoint {number}", "a").timeline())

    found = timeline_file.read(tmp_path)
    assert [one.operation for one in found] == [
        f"checkpoint {number}" for number in range(3, timeline_file.KEPT + 3)
    ]


@pytest.mark.parametrize("data", (b"", b"nonsense", b'[{"operation": 1}]', b"[]" * (1 << 20)))
def test_a_damaged_file_is_replaced(tmp_path: Path, data: bytes) -> None:
    """No operation fails because of it."""
    (tmp_path / timeline_file.NAME).write_bytes(data)

    assert timeline_file.read(tmp_path) == ()
    timeline_file.add(tmp_path, Recorder("park", "a").timeline())
    assert [one.operation for one in timeline_file.read(tmp_path)] == ["park"]


def test_a_task_without_a_folder(tmp_path: Path) -> None:
    """A failed restore may have removed it."""
    timeline_file.add(tmp_path / "none", Recorder("restore", "a").timeline())

    assert timeline_file.read(tmp_path / "none") == ()


# --- with an image ----------------------------------------------------------------------------


SPANS = (Span(phase=Phase.SAVE, start_s=0.5, duration_s=1.5),)


def made(folder: Path) -> Timeline:
    """Make an image with a timeline to the seal, and one to the end; return that."""
    manifest = sealed(folder, spans=SPANS)
    whole = Timeline(
        operation="checkpoint", task="t1", began_at=manifest.created_at, total_s=9.0, spans=SPANS
    )
    timelines.write(folder, manifest, whole)
    return msgspec.structs.replace(whole, image_path=str(folder))


def test_an_image_has_all_of_its_timeline(tmp_path: Path) -> None:
    """What follows the seal is in a file beside it, which verification ignores."""
    whole = made(tmp_path / "i")

    assert timelines.read(tmp_path / "i") == whole
    assert side_files.is_side_file(side_files.TIMELINE)
    assert read_manifest(tmp_path / "i").spans == SPANS


@pytest.mark.parametrize("data", (None, b"nonsense", b"{}"))
def test_an_image_without_the_file_has_what_was_sealed(tmp_path: Path, data: bytes | None) -> None:
    """A pulled image, or one whose file is damaged, ends with the seal."""
    made(tmp_path / "i")
    path = tmp_path / "i" / side_files.TIMELINE
    path.unlink() if data is None else path.write_bytes(data)

    found = timelines.read(tmp_path / "i")

    assert (found.partial, found.spans, found.total_s) == (True, SPANS, 2.0)


def test_the_file_of_another_image_is_ignored(tmp_path: Path) -> None:
    """It belongs to the image whose digest it has."""
    made(tmp_path / "i")
    sealed(tmp_path / "j", task="other", spans=SPANS)
    (tmp_path / "i" / side_files.TIMELINE).rename(tmp_path / "j" / side_files.TIMELINE)

    assert timelines.read(tmp_path / "j").partial


# --- what the machine can do ------------------------------------------------------------------


def test_speeds_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    """Every speed is measured, and the folder is empty afterwards."""
    found = speeds.measure(tmp_path)

    assert list(tmp_path.iterdir()) == []
    for one in (found.disk_write, found.disk_read, found.copy, found.fresh, found.digest):
        assert one is not None
        assert one > 0


def test_a_filesystem_without_direct_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured through the page cache, synced."""
    monkeypatch.setattr(os, "O_DIRECT", os.O_PATH)

    assert speeds.measure(tmp_path).disk_write


def test_a_folder_that_cannot_be_written_to() -> None:
    """The error is a typed one."""
    with pytest.raises(CryoError):
        speeds.measure(Path("/proc"))


def test_a_full_disk_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds that cannot be measured are unknown, and memory is measured all the same."""
    monkeypatch.setattr("shim.host.files.free_bytes", lambda _path: 1 << 20)

    found = speeds.measure(tmp_path)

    assert (found.disk_write, found.disk_read) == (None, None)
    assert found.copy is not None
