"""The streams of a process of a task."""

from __future__ import annotations

import os
import termios
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.host.console import Size
from shim.model import Stdio, TaskRef
from shim.task.streams import ExecStreams, ProcessStreams
from tests.unit.fakes_tasks import FakeSupervisor


async def test_terminal_that_runsc_does_not_send_is_given_up(tmp_path: Path) -> None:
    """A terminal is waited for as long as `timeouts.console` says, and its socket is removed."""
    stdio, ref = Stdio(terminal=True), TaskRef(namespace="ns", id="a")
    streams = ProcessStreams(FakeSupervisor(), ref, "", stdio, tmp_path)
    await streams.listen()

    with pytest.raises(DeadlineExceeded, match=r"no terminal within 0\.01 s"):
        await streams.connect(0.01)

    assert list(tmp_path.iterdir()) == []


REF = TaskRef(namespace="ns", id="a")


def of_an_exec(folder: Path) -> ExecStreams:
    """Make the streams of an exec with a terminal; its output goes to a file."""
    stdio = Stdio(terminal=True, stdout=f"file://{folder}/out")
    return ExecStreams(FakeSupervisor(), REF, "e", stdio, folder)


async def size_at_start(streams: ExecStreams) -> tuple[int, int]:
    """Start, and return the size that the program finds."""
    async with streams.opened() as opened:
        rows, columns = termios.tcgetwinsize(opened.stdin)
        os.write(opened.stdout, b"x")
    await streams.close()
    return columns, rows


async def test_a_size_before_the_terminal_is_kept(tmp_path: Path) -> None:
    """What is asked for before the start is what the program begins with."""
    streams = of_an_exec(tmp_path)
    streams.resize(80, 24)
    streams.resize(100, 40)

    assert await size_at_start(streams) == (100, 40)


async def test_a_size_of_the_spec(tmp_path: Path) -> None:
    """The spec's size is used where the client asks for no other, whichever comes first."""
    alone, before, after = of_an_exec(tmp_path), of_an_exec(tmp_path), of_an_exec(tmp_path)
    for streams in (alone, before):
        streams.suggest_size(Size(90, 30))
    for streams in (before, after):
        streams.resize(100, 40)
    after.suggest_size(Size(90, 30))

    assert await size_at_start(alone) == (90, 30)
    assert await size_at_start(before) == (100, 40)
    assert await size_at_start(after) == (100, 40)


async def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    """No size is kept that no terminal has, none for a process without, none after its exit."""
    streams = of_an_exec(tmp_path)
    with pytest.raises(InvalidArgument):
        streams.resize(1 << 16, 1)
    with pytest.raises(FailedPrecondition, match="no terminal"):
        ProcessStreams(FakeSupervisor(), REF, "", Stdio(), tmp_path).resize(80, 24)

    assert await size_at_start(streams) == (0, 0)
    with pytest.raises(FailedPrecondition, match="exited"):
        streams.resize(80, 24)
