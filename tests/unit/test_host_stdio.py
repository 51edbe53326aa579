"""Streams that are handed over as they are, and the loggers behind binary://."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shim.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shim.host import procs, stdio
from shim.host.process_id import ProcessId
from shim.host.supervisor.client import SupervisorClient
from shim.model import Stdio, TaskRef
from tests.unit.helpers_supervisor import children, end_supervisor

REF = TaskRef(namespace="n", id="t")


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[SupervisorClient]:
    """Give a supervisor that ends with the test, together with its children."""
    supervisor = await SupervisorClient.connect(tmp_path / "state")
    try:
        yield supervisor
    finally:
        await supervisor.close()
        await asyncio.to_thread(end_supervisor, tmp_path / "state")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Give a fifo."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Compare what is open before and after each test."""
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> set[str]:
    """Name our pipes and files."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{each.name} {each.readlink()}")
        except FileNotFoundError:
            continue  # the one of this listing
    return {each for each in found if "pipe:" in each or "/fifo" in each or "/log" in each}


async def read_to_end(fd: int) -> bytes:
    """Read a pipe until its last writer has gone, and close it."""
    with os.fdopen(fd, "rb") as file:
        return await asyncio.wait_for(asyncio.to_thread(file.read), 60)


async def run(supervisor: SupervisorClient, streams: stdio.Streams, script: str) -> ProcessId:
    """Start a shell on the streams and close ours, as an owner does."""
    process = await supervisor.spawn(
        ["sh", "-c", script], stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr
    )
    if streams.stdin_writer is not None:
        await supervisor.hold("stdin", streams.stdin_writer)
    streams.close()
    return process


async def test_reader_sees_the_end_when_the_task_ends(
    supervisor: SupervisorClient, fifo: Path
) -> None:
    """A client reads all of the output and then the end, although the fifo was opened both ways."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    streams = await stdio.open_streams(Stdio(stdout=str(fifo)), REF, supervisor)
    os.set_blocking(reader, True)
    await run(supervisor, streams, "echo hello")

    assert await read_to_end(reader) == b"hello\n"


async def test_a_reader_who_is_late(supervisor: SupervisorClient, fifo: Path) -> None:
    """A program that ends at once has not ended before its client reads: nothing is lost."""
    opening = asyncio.create_task(stdio.open_streams(Stdio(stdout=str(fifo)), REF, supervisor))
    await asyncio.sleep(0)
    assert not opening.done()

    reading = asyncio.create_task(asyncio.to_thread(fifo.read_bytes))
    streams = await opening
    os.write(streams.stdout, b"short")
    streams.close()

    assert await asyncio.wait_for(reading, 10) == b"short"


async def test_a_reader_who_does_not_come(
    supervisor: SupervisorClient, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment the program is started all the same."""
    monkeypatch.setattr(stdio, "_READER_S", 0.05)

    streams = await stdio.open_streams(Stdio(stdout=str(fifo)), REF, supervisor)

    assert streams.stdout >= 0
    streams.close()


async def test_reader_may_leave_and_come_back(supervisor: SupervisorClient, fifo: Path) -> None:
    """A write with no reader is no broken pipe, and the next reader gets it."""
    streams = await stdio.open_streams(Stdio(stdout=str(fifo)), REF, supervisor)
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    process = await run(supervisor, streams, "echo one; sleep 0.1; echo two; exec sleep 60")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as file:
        lines = [await asyncio.to_thread(file.readline) for _ in range(2)]

    assert lines == [b"one\n", b"two\n"]
    assert procs.is_alive(*process)


async def test_stdin_ends_with_close_io_and_not_before(
    supervisor: SupervisorClient, fifo: Path
) -> None:
    """A client that detaches does not end stdin; dropping our held write end does."""
    streams = await stdio.open_streams(Stdio(stdin=str(fifo)), REF, supervisor)
    process = await run(supervisor, streams, "read a; read b || exit 5; exit 6")
    fifo_writer = os.open(fifo, os.O_WRONLY)
    os.write(fifo_writer, b"line\n")
    os.close(fifo_writer)
    waiting = asyncio.create_task(supervisor.wait(*process))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await supervisor.drop("stdin")

    assert (await asyncio.wait_for(waiting, 60)).status == 5


async def test_empty_streams_are_null(supervisor: SupervisorClient) -> None:
    """With nothing named, reads end at once and writes vanish."""
    streams = await stdio.open_streams(Stdio(), REF, supervisor)
    assert streams.stdin_writer is None
    process = await run(supervisor, streams, "echo x && echo y >&2 && ! read z")

    assert (await supervisor.wait(*process)).status == 0


@pytest.mark.parametrize("scheme", ("", "file://"))
async def test_file_is_appended_to(
    supervisor: SupervisorClient, tmp_path: Path, scheme: str
) -> None:
    """A log file is made for its owner alone and appended to."""
    path = tmp_path / "log"
    for word in ("one", "two"):
        streams = await stdio.open_streams(Stdio(stdout=f"{scheme}{path}"), REF, supervisor)
        await supervisor.wait(*await run(supervisor, streams, f"echo {word}"))

    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("scheme", ("", "file://"))
async def test_a_log_goes_through_no_link(
    supervisor: SupervisorClient, tmp_path: Path, scheme: str
) -> None:
    """A link that somebody planted where a log is to be leads to no file of the host."""
    other = tmp_path / "other"
    other.write_text("kept\n")
    (tmp_path / "log").symlink_to(other)

    with pytest.raises(InvalidArgument, match="is a symbolic link") as caught:
        await stdio.open_streams(Stdio(stdout=f"{scheme}{tmp_path}/log"), REF, supervisor)

    assert caught.value.remedy
    assert other.read_text() == "kept\n"


async def test_file_scheme_takes_both_and_makes_its_folder(
    supervisor: SupervisorClient, tmp_path: Path
) -> None:
    """As with containerd's log files, stderr goes where stdout goes, in a folder that is made."""
    path = tmp_path / "deep" / "a b"
    streams = await stdio.open_streams(
        Stdio(stdout=f"file://{tmp_path}/deep/a%20b"), REF, supervisor
    )
    await supervisor.wait(*await run(supervisor, streams, "echo out; echo err >&2"))

    assert path.read_text() == "out\nerr\n"


@pytest.mark.parametrize(
    "given",
    (
        Stdio(stdout="relative/path"),
        Stdio(stdin="relative"),
        Stdio(stdout="http://x/y"),
        Stdio(stdout="file://host/path"),
        Stdio(stdout="fifo://relative"),
        Stdio(stdin="binary:///bin/cat"),
        Stdio(stdin="file:///dev/null"),
        Stdio(stderr="binary:///bin/cat"),
        Stdio(stdout="/a\0b"),
    ),
)
async def test_what_cannot_be_used_is_an_invalid_argument(
    supervisor: SupervisorClient, given: Stdio
) -> None:
    """A stream that can never work is refused, and nothing stays open."""
    with pytest.raises(InvalidArgument):
        await stdio.open_streams(given, REF, supervisor)


async def test_fifo_scheme_insists_on_a_fifo(supervisor: SupervisorClient, tmp_path: Path) -> None:
    """A file is not silently made where a fifo was promised."""
    with pytest.raises(InvalidArgument, match="not a fifo"):
        await stdio.open_streams(Stdio(stdout=f"fifo://{tmp_path}/log"), REF, supervisor)
    assert not (tmp_path / "log").exists()


async def test_missing_stdin_is_not_found(supervisor: SupervisorClient, fifo: Path) -> None:
    """A failure at one stream closes the others."""
    with pytest.raises(NotFound):
        await stdio.open_streams(Stdio(stdin=f"{fifo}-no", stdout=str(fifo)), REF, supervisor)
    with pytest.raises(NotFound):
        await stdio.open_streams(Stdio(stdin=str(fifo), stdout=f"{fifo}-no/x"), REF, supervisor)


LOGGER = """#!{python}
import os, sys
{ready}
with open({log!r}, "w") as log:
    print(sys.argv[1:], os.environ["CONTAINER_ID"], os.environ["CONTAINER_NAMESPACE"], file=log)
    log.write(os.fdopen(3).read() + os.fdopen(4).read())
"""


def logger(tmp_path: Path, ready: str) -> Path:
    """Make a logger program that says it is ready in its own way."""
    path = tmp_path / "logger"
    path.write_text(LOGGER.format(python=sys.executable, log=str(tmp_path / "log"), ready=ready))
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("scheme", "ready"),
    (("binary", "os.close(5)"), ("binary-v2", "os.write(5, b'1'); os.close(5)")),
)
async def test_logger_gets_both_streams(
    supervisor: SupervisorClient, tmp_path: Path, scheme: str, ready: str
) -> None:
    """A logger reads what the task writes, knows its name, and ends with it."""
    path = logger(tmp_path, ready)
    streams = await stdio.open_streams(
        Stdio(stdout=f"{scheme}://{path}?key=value&flag", stderr=""), REF, supervisor
    )
    started = streams.logger
    assert started
    await run(supervisor, streams, "echo out; echo err >&2")
    await stdio.end_logger(started)

    assert (await supervisor.wait(*started)).status == 0
    assert (tmp_path / "log").read_text() == "['key', 'value', 'flag'] t n\nout\nerr\n"


async def test_logger_that_is_never_ready_is_ended(
    supervisor: SupervisorClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logger that does not say so in time fails the create and is gone."""
    monkeypatch.setattr(stdio, "_READY_S", 0.1)
    path = logger(tmp_path, "import time; time.sleep(60)")

    with pytest.raises(DeadlineExceeded, match="was not ready"):
        await stdio.open_streams(Stdio(stdout=f"binary://{path}"), REF, supervisor)

    async with asyncio.timeout(60):
        while children(supervisor.pid):  # noqa: ASYNC110 - seen only in /proc
            await asyncio.sleep(0.01)


async def test_logger_of_version_two_must_say_that_it_is_ready(
    supervisor: SupervisorClient, tmp_path: Path
) -> None:
    """A version 2 logger that just ends was never ready."""
    path = logger(tmp_path, "sys.exit(3)")

    with pytest.raises(FailedPrecondition, match="exited before"):
        await stdio.open_streams(Stdio(stdout=f"binary-v2://{path}"), REF, supervisor)


async def test_missing_logger_is_not_found(supervisor: SupervisorClient) -> None:
    """A logger that is not there is named."""
    with pytest.raises(NotFound, match="/no/logger"):
        await stdio.open_streams(Stdio(stdout="binary:///no/logger"), REF, supervisor)


async def test_stuck_logger_is_ended(supervisor: SupervisorClient) -> None:
    """A logger that ignores the end of its task is terminated, then killed."""
    null = os.open("/dev/null", os.O_RDWR)
    script = "trap '' TERM; echo; while :; do sleep 1; done"
    reader, writer = os.pipe()
    stuck = await supervisor.spawn(["sh", "-c", script], stdin=null, stdout=writer, stderr=null)
    os.close(writer)
    await asyncio.to_thread(os.read, reader, 1)
    os.close(reader)
    os.close(null)

    await stdio.end_logger(stuck, timeout_s=0.1)

    assert (await supervisor.wait(*stuck)).status == 137


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
async def test_a_log_goes_into_no_folder_of_anothers(
    tmp_path: Path, supervisor: SupervisorClient
) -> None:
    """Who owns the folder could lead what a container writes into a file of root's."""
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", 65534, 65534)

    with pytest.raises(PermissionDenied, match="his belongs to user 65534"):
        await stdio.open_streams(Stdio(stdout=f"file://{tmp_path}/his/new/log"), REF, supervisor)
