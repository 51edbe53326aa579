"""The small parts of a task: values set once, pid pipes, records, folders."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.errors import AlreadyExists, CryoError, InvalidArgument
from shim.model import Exit, Mount, Stdio, TaskRef
from shim.task import record as records
from shim.task.layout import Layout
from shim.task.pidpipe import PidPipe
from shim.task.record import ExecRecord, TaskRecord
from shim.task.set_once import SetOnce
from tests.unit.helpers_descriptors import descriptors

REF = TaskRef(namespace="ns", id="a")
AT = datetime(2026, 11, 23, 18, 10, 3, 123456, UTC)
RECORD = TaskRecord(
    ref=REF,
    bundle="/b",
    stdio=Stdio(stdin="/in", stdout="file:///out", terminal=True),
    created_at=AT,
    rootfs="/b/rootfs",
    mounts=(Mount(type="overlay", source="overlay", options=("lowerdir=/x",)),),
    gpu=True,
    guest_tool="/t",
    image_path="/i",
    pid=5,
    start=6,
    started=True,
    exit=Exit(status=137, at=AT),
    execs={"e": ExecRecord(id="e", stdio=Stdio(), runner_pid=7, runner_start=8, guest_pid=9)},
)


# -- once ----------------------------------------------------------------------------------------


async def test_waiting_before_and_after_is_the_same() -> None:
    """All who wait get the one value."""
    once: SetOnce[int] = SetOnce()
    early = [asyncio.create_task(once.get()) for _ in range(3)]
    await asyncio.sleep(0)
    once.put(7)
    once.put(8)

    assert await asyncio.gather(*early) == [7, 7, 7]
    assert await once.get() == 7
    assert once.value == 7


async def test_a_waiter_may_leave() -> None:
    """The others are not disturbed."""
    once: SetOnce[int] = SetOnce()
    first, second = asyncio.create_task(once.get()), asyncio.create_task(once.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    once.put(1)

    assert await second == 1


# -- pid pipe ------------------------------------------------------------------------------------


async def test_the_pid_is_received_when_it_is_written(tmp_path: Path) -> None:
    """Runsc writes to what it takes for a file."""
    with PidPipe(tmp_path / "pid") as pipe:
        reading = asyncio.create_task(pipe.read())
        await asyncio.sleep(0.01)
        assert not reading.done()
        pipe.path.write_text("33")
        assert await asyncio.wait_for(reading, 60) == 33
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("text", ("", "x", "-1", "3 3", "\xff", "²"))
async def test_what_is_no_number_is_none(tmp_path: Path, text: str) -> None:
    """It is not taken for a process."""
    with PidPipe(tmp_path / "pid") as pipe:
        pipe.path.write_bytes(text.encode())
        fd = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, text.encode() or b"\n")
        os.close(fd)
        assert await asyncio.wait_for(pipe.read(), 60) == 0


async def test_a_pipe_that_is_left_over_is_replaced(tmp_path: Path) -> None:
    """An owner that was killed leaves one; no descriptor is kept."""
    os.mkfifo(tmp_path / "pid")
    before = len(descriptors())

    with PidPipe(tmp_path / "pid") as pipe:
        reading = asyncio.create_task(pipe.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    assert list(tmp_path.iterdir()) == []
    assert len(descriptors()) == before


# -- record --------------------------------------------------------------------------------------


def test_a_record_comes_back_whole(tmp_path: Path) -> None:
    """Every field, in the next process."""
    records.save(tmp_path, RECORD)

    assert records.load(tmp_path) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["task.json"]


def test_no_record(tmp_path: Path) -> None:
    """A folder without one is distinguished from a damaged one."""
    assert records.load(tmp_path) is None


def test_fields_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    """After a downgrade the tasks are still adopted."""
    raw = msgspec.json.decode(msgspec.json.encode(RECORD))
    (tmp_path / records.NAME).write_bytes(msgspec.json.encode({**raw, "newer": [1, {"x": 2}]}))

    assert records.load(tmp_path) == RECORD


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_may_be_wrong(tmp_path: Path, data: st.DataObject) -> None:
    """A record, or an error of ours; an id that is no file name is none either."""
    raw = bytearray(msgspec.json.encode(RECORD))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    (tmp_path / records.NAME).write_bytes(raw)

    found = None
    try:
        found = records.load(tmp_path)
    except InvalidArgument:
        return
    assert found is not None
    assert "/" not in found.ref.id


# -- layout --------------------------------------------------------------------------------------


def test_folders_are_private(tmp_path: Path) -> None:
    """Specs have environments in them, with secrets."""
    layout = Layout(tmp_path / "state")
    layout.prepare()
    folder = layout.make_task(REF)

    for path in (tmp_path / "state", folder, folder / "bundle"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert list(layout.found()) == [REF]
    layout.remove_task(REF)
    assert list(layout.found()) == []


def test_what_is_no_task_is_not_found(tmp_path: Path) -> None:
    """Editors and people leave things in folders."""
    layout = Layout(tmp_path / "state")
    layout.prepare()
    for name in (".hidden", "a b", "x~"):
        (tmp_path / "state" / "tasks" / "ns" / name).mkdir(parents=True)

    assert list(layout.found()) == []


def test_namespaces_are_apart(tmp_path: Path) -> None:
    """The same id in two namespaces has two folders and two roots of runsc."""
    layout = Layout(tmp_path)
    other = TaskRef(namespace="other", id="a")

    assert layout.task(REF) != layout.task(other)
    assert layout.runsc_root("ns") != layout.runsc_root("other")


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """Two owners of one folder would undo each other's work."""
    layout = Layout(tmp_path)
    first = layout.lock()
    try:
        with pytest.raises(AlreadyExists) as caught:
            layout.lock()
        assert caught.value.remedy
    finally:
        os.close(first)
    os.close(layout.lock())


def test_a_state_folder_that_is_a_link(tmp_path: Path) -> None:
    """Nothing is made through it."""
    (tmp_path / "real").mkdir()
    layout = Layout(tmp_path / "state")
    layout.prepare()
    (tmp_path / "state" / "tasks" / "ns").symlink_to(tmp_path / "real")

    with pytest.raises(CryoError):
        layout.make_task(REF)
    assert list((tmp_path / "real").iterdir()) == []
