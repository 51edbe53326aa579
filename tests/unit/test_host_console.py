"""Terminals: the socket that receives one, the copying, the size."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.errors import FailedPrecondition as Failed
from shim.host.console import Console, ConsoleSocket, resize
from tests.unit.helpers_descriptors import descriptors


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Count what is open before and after each test."""
    before = len(descriptors())
    yield
    assert len(descriptors()) == before


@pytest.fixture
def terminal() -> tuple[int, int]:
    """Give a raw terminal as (master, slave); both are the test's to close."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def send(path: Path, *fds: int) -> None:
    """Send descriptors as runsc does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        socket.send_fds(sock, [b"name"], list(fds))


async def test_terminal_arrives(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """The master that is sent is the one that is received, and the socket leaves nothing."""
    master, slave = terminal
    console = ConsoleSocket(tmp_path)
    assert console.path.parent.stat().st_mode & 0o777 == 0o700
    receiving = asyncio.create_task(console.receive(10))
    await asyncio.to_thread(send, console.path, master)
    received = await receiving
    console.close()
    os.close(master)

    os.write(slave, b"x")
    assert os.read(received, 10) == b"x"
    os.close(received)
    os.close(slave)
    assert list(tmp_path.iterdir()) == []


async def test_no_terminal_in_time(tmp_path: Path) -> None:
    """Waiting for a terminal that never comes ends."""
    console = ConsoleSocket(tmp_path)
    with pytest.raises(DeadlineExceeded):
        await console.receive(0.05)
    console.close()


@pytest.mark.parametrize("count", (0, 2))
async def test_what_is_no_terminal_is_refused(tmp_path: Path, count: int) -> None:
    """Something else than a terminal is closed again."""
    console = ConsoleSocket(tmp_path)
    receiving = asyncio.create_task(console.receive(10))
    with Path("/dev/null").open() as null:
        await asyncio.to_thread(send, console.path, *[null.fileno()] * count)
    with pytest.raises(FailedPrecondition, match="no terminal"):
        await receiving
    console.close()


async def test_address_that_would_be_too_long(tmp_path: Path) -> None:
    """Below a deep folder the socket is put where its address fits."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    console = ConsoleSocket(deep)
    assert len(str(console.path)) < 108
    assert console.path.exists()
    console.close()
    assert not console.path.parent.exists()


def pipes() -> tuple[int, int, int, int]:
    """Give (stdin for the console, its writer, stdout for the console, its reader)."""
    stdin, writer = os.pipe()
    reader, stdout = os.pipe()
    return stdin, writer, stdout, reader


async def test_copies_both_ways_and_ends(terminal: tuple[int, int]) -> None:
    """Keys go in, output comes out, and the end of the terminal is the end of the output."""
    master, slave = terminal
    stdin, writer, stdout, reader = pipes()
    console = Console(master, stdin, stdout)
    os.write(writer, b"keys")
    assert await asyncio.to_thread(os.read, slave, 10) == b"keys"
    os.close(writer)  # the end of stdin leaves the rest going
    await asyncio.sleep(0)
    os.write(slave, b"output")
    os.close(slave)

    assert await console.finished(10)
    console.close()
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"output"


async def test_slow_reader_loses_nothing_and_bounds_the_buffer(terminal: tuple[int, int]) -> None:
    """A reader that waits makes the writer wait; in the end everything has arrived."""
    master, slave = terminal
    stdin, writer, stdout, reader = pipes()
    console = Console(master, stdin, stdout)
    data = os.urandom(1 << 20)

    def write() -> None:
        for at in range(0, len(data), 4096):
            rest = data[at : at + 4096]
            while rest:
                rest = rest[os.write(slave, rest) :]
        os.close(slave)

    writing = asyncio.create_task(asyncio.to_thread(write))
    await asyncio.sleep(0.2)
    assert not writing.done()
    assert not await console.finished(0.01)
    assert len(console._output._buffer) < 256 * 1024

    def read() -> bytes:
        with os.fdopen(reader, "rb") as file:
            return file.read()

    reading = asyncio.create_task(asyncio.to_thread(read))
    await writing
    assert await console.finished(10)
    console.close()
    os.close(writer)
    assert await reading == data


async def test_output_that_no_process_will_read_does_not_hold_up_others(
    terminal: tuple[int, int],
) -> None:
    """After a broken pipe the output is thrown away, and its writer goes on."""
    master, slave = terminal
    stdin, writer, stdout, reader = pipes()
    os.close(reader)
    console = Console(master, stdin, stdout)
    for _ in range(64):
        await asyncio.wait_for(asyncio.to_thread(os.write, slave, b"x" * 4096), 60)
    os.close(slave)

    assert await console.finished(10)
    console.close()
    os.close(writer)


async def test_file_and_null_need_no_polling(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """A log file as output and nothing as input work too."""
    master, slave = terminal
    stdout = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    console = Console(master, os.open("/dev/null", os.O_RDONLY), stdout)
    os.write(slave, b"one ")
    await asyncio.sleep(0)
    os.write(slave, b"two")
    os.close(slave)

    assert await console.finished(10)
    console.close()
    assert (tmp_path / "log").read_bytes() == b"one two"


async def test_close_in_the_middle(terminal: tuple[int, int]) -> None:
    """Closing while data is under way leaves no callback behind."""
    master, slave = terminal
    stdin, writer, stdout, reader = pipes()
    console = Console(master, stdin, stdout)
    os.write(slave, b"x")
    os.write(writer, b"y")
    console.close()
    await asyncio.sleep(0.01)

    assert os.read(reader, 10) == b""
    os.close(reader)
    os.close(writer)
    os.close(slave)


def test_resize(terminal: tuple[int, int]) -> None:
    """Width and height reach the terminal; impossible ones and other files are refused."""
    master, slave = terminal
    resize(master, 132, 43)
    assert termios.tcgetwinsize(slave) == (43, 132)
    with pytest.raises(InvalidArgument):
        resize(master, 70000, 1)
    with pytest.raises(InvalidArgument):
        resize(master, -1, 1)
    with Path("/dev/null").open() as null, pytest.raises(Failed):
        resize(null.fileno(), 80, 25)
    os.close(master)
    os.close(slave)
