"""The heap before forks: what a fork uses and creates leaves the shared pages unwritten."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IMMORTAL_SINCE = (3, 12)
_PROGRAM = """
import gc, os, sys
from pathlib import Path
from shim.host import heap

PAGE = os.sysconf("SC_PAGE_SIZE")
"""
_USE = """
class Thing:
    pass

things = [Thing() for _ in range(50_000)]

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

def in_a_fork():
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        before = private()
        references = list(things)
        del references
        os.write(write_end, str(private() - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read_end, 100))

gc.collect()
gc.freeze()
frozen = in_a_fork()
heap.settle()
print(frozen, in_a_fork())
"""
_CREATE = """
things = [bytes(size) for size in range(1, 400) for _ in range(200)]
kept = things[::2]
del things
heap.settle()
pages = {id(each) // PAGE for each in (*gc.get_objects(), *gc.get_referents(kept))}
pages |= {id(each) // PAGE for each in kept}
kinds = [range(1, 472, 16)] * 20
made = [bytes(size) for sizes in kinds for size in sizes]
print(len(made), sum(id(each) // PAGE in pages for each in made))
"""
_LIVE = """
class Thing:
    def __del__(self):
        print("freed")

def generator(thing):
    try:
        yield
    finally:
        print("finished")

before, going = Thing(), generator(None)
next(going)
first, second = heap.make_immortal(), heap.make_immortal()
print(first > 0, second > first / 100)
del before, going
after = Thing()
del after
"""


def output(program: str) -> str:
    """Run a program that uses the heap, in a process of its own."""
    argv = [sys.executable, "-c", _PROGRAM + program]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.skipif(sys.version_info < _IMMORTAL_SINCE, reason="counts references to all objects")
def test_what_a_fork_uses_stays_shared() -> None:
    """References to the objects of the parent are not counted in their pages."""
    frozen, settled = map(int, output(_USE).split())

    assert frozen > 2000
    assert settled < frozen / 2


def test_what_a_fork_creates_is_apart() -> None:
    """New objects are in pages without older ones, but for the block that began each pool."""
    made, among_others = map(int, output(_CREATE).split())

    assert made == 600
    assert among_others < made / 10


@pytest.mark.skipif(sys.version_info < _IMMORTAL_SINCE, reason="has no immortal objects")
def test_what_is_immortal_is_not_freed() -> None:
    """A second call finds almost nothing; a generator is left alone, and new objects are freed."""
    assert output(_LIVE).split() == ["True", "False", "finished", "freed"]


@pytest.mark.skipif(sys.version_info >= _IMMORTAL_SINCE, reason="has immortal objects")
def test_without_immortal_objects_nothing_is_changed() -> None:
    """An interpreter that counts every reference frees what it would free."""
    assert output(_LIVE).split() == ["False", "False", "freed", "finished", "freed"]
