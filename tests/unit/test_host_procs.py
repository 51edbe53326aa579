"""Processes by exact identity."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.host import procs, procstat
from tests.unit.helpers_descriptors import descriptors


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that does nothing, and end it."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_name_with_parentheses_does_not_mislead() -> None:
    """A name may hold spaces and `) Z 1` without changing what the fields are."""
    line = b"7 (a) Z 1 (b) S 5 " + b" ".join(b"%d" % n for n in range(5, 53)) + b"\n"

    found = procstat.parse(line)

    assert found == procstat.Stat("S", 5, 22, 52)


def test_garbled_line_is_nothing() -> None:
    """A line that is cut short names no process."""
    assert procstat.parse(b"7 (a) S 5 6") is None


def test_start_time_of_a_gone_process_is_none(sleeper: subprocess.Popen[bytes]) -> None:
    """A start time is stable while the process is there, and None after."""
    start = procs.start_time(sleeper.pid)
    assert start is not None
    assert procs.start_time(sleeper.pid) == start

    sleeper.kill()
    sleeper.wait()

    assert procs.start_time(sleeper.pid) is None


def test_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """A process that has exited counts as dead before it is reaped."""
    start = procs.start_time(sleeper.pid) or 0
    assert procs.is_alive(sleeper.pid, start)
    assert not procs.is_alive(sleeper.pid, start + 1)

    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    assert not procs.is_alive(sleeper.pid, start)


def test_kill_hits_only_that_process(sleeper: subprocess.Popen[bytes]) -> None:
    """Another start time is another process: it is not signalled."""
    start = procs.start_time(sleeper.pid) or 0

    assert not procs.kill(sleeper.pid, start + 1, signal.SIGKILL)
    assert procs.is_alive(sleeper.pid, start)
    assert procs.kill(sleeper.pid, start, signal.SIGKILL)
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    assert not procs.kill(sleeper.pid, start, signal.SIGKILL)


def fd_count() -> int:
    """Count our open descriptors."""
    return len(descriptors())


async def test_wait_pidfd_returns_at_the_end(sleeper: subprocess.Popen[bytes]) -> None:
    """Waiting ends with the process, and leaves no descriptor."""
    before = fd_count()
    waiting = asyncio.create_task(procs.wait_pidfd(sleeper.pid))
    await asyncio.sleep(0)
    sleeper.terminate()
    async with asyncio.timeout(60):
        await waiting

    sleeper.wait()
    await procs.wait_pidfd(sleeper.pid)
    assert fd_count() == before


async def test_cancelled_wait_leaves_no_descriptor(sleeper: subprocess.Popen[bytes]) -> None:
    """A cancelled wait closes its pidfd and unregisters it."""
    before = fd_count()
    waiting = asyncio.create_task(procs.wait_pidfd(sleeper.pid))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert fd_count() == before


async def test_wait_for_another_start_returns_at_once(sleeper: subprocess.Popen[bytes]) -> None:
    """A reused pid is not waited for."""
    async with asyncio.timeout(60):
        await procs.wait_pidfd(sleeper.pid, (procs.start_time(sleeper.pid) or 0) + 1)


def test_resident_bytes_is_that_of_the_guest_memory() -> None:
    """What is really in the memory file counts, not its size."""
    script = (
        "import os, sys\n"
        "fd = os.memfd_create('runsc-memory')\n"
        "os.truncate(fd, 1 << 30)\n"
        "os.write(fd, b'x' * (4 << 20))\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = procs.resident_bytes(process.pid)
        process.communicate()

    assert 4 << 20 <= found < 5 << 20


@pytest.mark.parametrize("name", (".gvisor.filestore.a+", "runsc-filestore-17"))
def test_an_overlay_on_disk_counts(tmp_path: Path, name: str) -> None:
    """A save writes what containers have put there, with or without a name, as it does memory."""
    script = (
        "import os, sys\n"
        "fd = os.memfd_create('runsc-memory')\n"
        "os.write(fd, b'x' * (4 << 20))\n"
        "file = open(sys.argv[1], 'wb', 0)\n"
        "os.truncate(file.fileno(), 1 << 30)\n"
        "file.write(b'x' * (8 << 20))\n"
        "os.unlink(sys.argv[1])\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = procs.resident_bytes(process.pid)
        process.communicate()

    assert 12 << 20 <= found < 13 << 20


def test_resident_bytes_falls_back(sleeper: subprocess.Popen[bytes]) -> None:
    """A process with no memory file is measured by its resident set."""
    assert mmap.PAGESIZE <= procs.resident_bytes(sleeper.pid) < 1 << 30


def test_resident_bytes_of_a_gone_process_is_not_found(sleeper: subprocess.Popen[bytes]) -> None:
    """A gone process is said to be gone."""
    sleeper.kill()
    sleeper.wait()

    with pytest.raises(NotFound):
        procs.resident_bytes(sleeper.pid)


async def test_a_tree_is_killed_and_its_end_awaited() -> None:
    """Who removes what a process had waits for those below it too: they hold it until they end."""
    script = "sleep 60 & sleep 60 & echo up; wait"
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    start = procs.start_time(process.pid)
    assert start is not None

    below = procs.kill_tree(process.pid, start)

    assert len(below) == 2
    async with asyncio.timeout(60):
        await procs.until_ended(below)
        await process.wait()
    assert not any(procs.is_alive(*one) for one in below)
    assert procs.kill_tree(process.pid, start) == []
