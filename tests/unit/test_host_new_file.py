"""Files that are written past the page cache, where the filesystem takes that, and their ends."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shim.host import page_cache
from shim.host.new_file import NewFile
from shim.host.tmpfs import Tmpfs
from tests.unit.helpers_descriptors import descriptors
from tests.unit.helpers_filesystems import (
    needs_disk,
    needs_root,
    small_disk,
    without_direct_writes,
)

MIB = 1 << 20
SIZES = (0, 1, 4095, 4096, MIB + 1, 16 * MIB + 3)
PIECE = 4 * MIB


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Give an open folder on a disk."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def _memory(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, max(1, len(data)))
    memory.write(data)
    return memoryview(memory)[: len(data)]


def _write(folder: int, data: bytes, *, direct: bool) -> bool:
    """Write a file, the last pieces first; return whether that was done directly to the end."""
    content = _memory(data)
    with closing(NewFile("file", folder, len(data), direct=direct)) as file:
        for at in reversed(range(0, len(data), PIECE)):
            file.write(content[at : at + PIECE], at, start=True)
        file.sync()
        return file.is_direct


def _read(folder: int) -> bytes:
    with open(os.open("file", os.O_RDONLY, dir_fd=folder), "rb") as file:  # noqa: PTH123
        return file.read()


@pytest.mark.parametrize("direct", (True, False))
@pytest.mark.parametrize("size", SIZES)
def test_content_of_every_size(folder: int, size: int, *, direct: bool) -> None:
    """Every byte arrives, those of the tail too, and nothing is added to them."""
    data = os.urandom(size)

    _write(folder, data, direct=direct)

    assert _read(folder) == data
    assert os.stat("file", dir_fd=folder).st_mode & 0o777 == 0o600


@needs_disk
def test_whole_blocks_are_not_in_the_page_cache(tmp_path: Path) -> None:
    """Only the tail is; without direct writes all is."""
    with small_disk(tmp_path, 64 * MIB) as disk:
        for direct, least, most in ((True, 0, 4096), (False, 4 * MIB, 5 * MIB)):
            fd = os.open(disk, os.O_RDONLY)
            _write(fd, os.urandom(4 * MIB + 1), direct=direct)
            os.close(fd)
            with (disk / "file").open("rb") as file:
                cached = page_cache.cached_bytes(file.fileno())
            if cached is None:
                pytest.skip("the kernel has no cachestat")
            assert least <= cached <= most
            (disk / "file").unlink()


@needs_root
def test_filesystem_without_direct_writes(tmp_path: Path) -> None:
    """It refuses to open the file for them, and has no fallocate; all is written as usual."""
    data = os.urandom(MIB + 1)
    with without_direct_writes(tmp_path) as path:
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(OSError, match="Invalid argument"):
            os.open("other", os.O_CREAT | os.O_WRONLY | os.O_DIRECT, dir_fd=fd)

        assert not _write(fd, data, direct=True)

        assert _read(fd) == data
        os.close(fd)


@pytest.mark.parametrize("number", (errno.EINVAL, errno.EOPNOTSUPP))
@pytest.mark.parametrize("good", (0, 1))
def test_write_that_is_refused(
    folder: int, monkeypatch: pytest.MonkeyPatch, number: int, good: int
) -> None:
    """The first direct write that is refused is the last one."""
    data = os.urandom(3 * PIECE + 5)
    direct: list[int] = []

    def refuse(at: int) -> None:
        direct.append(at)
        if len(direct) > good:
            raise OSError(number, os.strerror(number))

    _on_direct(monkeypatch, refuse)

    assert not _write(folder, data, direct=True)

    if not direct:
        pytest.skip("the folder of the test has no direct writes")
    assert len(direct) == good + 1
    assert _read(folder) == data


def test_short_write(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a piece begins anywhere then."""
    data = os.urandom(2 * PIECE)
    _on_direct(monkeypatch, lambda _: None, most=513)

    _write(folder, data, direct=True)

    assert _read(folder) == data


def test_other_error_of_a_write(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a refusal."""

    def fail(_at: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    _on_direct(monkeypatch, fail)

    with pytest.raises(OSError, match="Input/output error"):
        _write(folder, bytes(PIECE), direct=True)


def test_other_error_of_the_second_open(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised, and no descriptor is left."""
    before, plain = descriptors(), os.open

    def fail(path: str, flags: int, *more: int, **by_name: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return plain(path, flags, *more, **by_name)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        _write(folder, bytes(PIECE), direct=True)

    assert descriptors() == before


@needs_disk
def test_full_disk(tmp_path: Path) -> None:
    """It is an error before anything is written, and leaves no descriptor."""
    with small_disk(tmp_path, 32 * MIB) as disk:
        fd = os.open(disk, os.O_RDONLY)
        before = descriptors()
        with pytest.raises(OSError, match="No space left"):
            NewFile("file", fd, 64 * MIB, direct=True)
        assert descriptors() == before
        os.close(fd)


@needs_root
def test_full_tmpfs() -> None:
    """So it is in memory, whether the kernel has direct writes there or not."""
    made = Tmpfs(8 * MIB)
    try:
        with pytest.raises(OSError, match="No space left"):
            _write(made.fd, bytes(16 * MIB), direct=True)
    finally:
        made.close()


def _on_direct(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[int], None], most: int = 1 << 30
) -> None:
    """Call `look` before each direct write, and let one write at most this much."""
    plain = os.pwrite

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        flags = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").split()[3]
        if not int(flags, 8) & os.O_DIRECT:
            return plain(fd, data, at)
        look(at)
        if most < len(data):
            # A filesystem whose blocks are this small; this one refuses to write such a part.
            twin = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
            try:
                return plain(twin, data[:most], at)
            finally:
                os.close(twin)
        return plain(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
