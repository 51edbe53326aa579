"""Prepares the heap of a process whose forks are to share its pages.

A fork shares a page until it is written. What a fork writes in the pages of its parent is, first,
the reference counts of the objects that it uses; second, memory that is free between objects, where
it allocates. `settle` stops both: objects become immortal, so that they are not counted any more
(since Python 3.12, PEP 683), and the free memory is taken, so that a fork allocates in fresh pages.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types

# An object with a count from here on is immortal.
_IMMORTAL = 1 << 31
# The counts of these matter: their end closes something, or resumes nothing.
_LIVING = (
    types.FrameType,
    types.GeneratorType,
    types.CoroutineType,
    types.AsyncGeneratorType,
    types.TracebackType,
)
# The allocator for objects (Objects/obmalloc.c): blocks of up to 512 bytes, in pools with a header.
_BLOCKS = range(48, 513, 16)
_POOL_BYTES = 16 << 10
_POOL_HEADER = 48
# More free memory than this between objects is a mistake of ours.
_FREE_MAX = 16 << 20
# The sizes in which the C library keeps freed memory; larger blocks are rare.
_CHUNKS = (*(1 << n for n in range(16, 10, -1)), *range(1032, 23, -16))

_taken: list[bytes] = []


def settle() -> None:
    """Collect garbage, and make what is left the constant part of this process and its forks."""
    gc.unfreeze()  # the collector does not list what is frozen
    gc.collect()
    make_immortal()
    gc.collect()
    _take_free_blocks()
    _take_free_chunks()
    gc.freeze()


def make_immortal() -> int:
    """Make every object that exists immortal; return how many were not: 0 before Python 3.12.

    The objects are never freed after this, and nothing must depend on their being freed.
    """
    count_at, count_of = ctypes.c_uint32.from_address, sys.getrefcount
    immortal = count_at(id(None)).value
    if immortal < _IMMORTAL or not _has_count_first():
        return 0
    tracked = [each for each in gc.get_objects() if not isinstance(each, _LIVING)]
    parts, found = tracked + _parts(tracked), 0
    while parts:
        fresh = []
        for part in parts:
            if count_of(part) < _IMMORTAL and not isinstance(part, _LIVING):
                count_at(id(part)).value = immortal
                fresh.append(part)
        found += len(fresh)
        parts = _parts(fresh)
    return found


def _parts(objects: list[object]) -> list[object]:
    """Return what the objects refer to; the collector does not look into code."""
    found = gc.get_referents(*objects)
    for each in objects:
        if isinstance(each, types.CodeType):
            found += (each.co_names, each.co_varnames, each.co_freevars, each.co_cellvars)
            found += (each.co_filename, each.co_name, each.co_qualname, each.co_consts)
            found += (each.co_linetable, each.co_exceptiontable)
    return found


def _has_count_first() -> bool:
    """Whether an object begins with its reference count, as in every build with the GIL."""
    fresh = object()
    return ctypes.c_uint32.from_address(id(fresh)).value == sys.getrefcount(fresh) - 1


def _take_free_blocks() -> None:
    """Take the free blocks of all pools that are in use, until a fresh pool is begun."""
    overhead, room = sys.getsizeof(b""), _FREE_MAX
    for size in _BLOCKS:
        before = 0
        while room > 0:
            _taken.append(bytes(size - overhead))
            room -= size
            address = id(_taken[-1])
            if before % _POOL_BYTES == _POOL_HEADER and address == before + size:
                break
            before = address


class _MallInfo(ctypes.Structure):
    """The result of mallinfo2(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _take_free_chunks() -> None:
    """Take the chunks that the C library has free, until it takes from the end of its heap.

    Only glibc can tell where that is.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return
    libc.mallinfo2.restype = _MallInfo
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    info = libc.mallinfo2()
    end, room = libc.sbrk(0) - info.keepcost, info.fordblks - info.keepcost
    for size in _CHUNKS:
        while room > 0 and (libc.malloc(size) or end) < end:
            room -= size
