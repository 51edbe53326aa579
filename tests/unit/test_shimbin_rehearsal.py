"""The nursery's rehearsal: it goes as far as a life without a container can, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import logging, os, sys, threading
from pathlib import Path
from shim.entry.shimbin.rehearsal import rehearse

if "told" in sys.argv:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
files = os.listdir("/proc/self/fd")
rehearse(Path(sys.argv[1]))
assert threading.active_count() == 1, threading.enumerate()
assert os.listdir("/proc/self/fd") == files
"""


def rehearsed(folder: Path, *words: str) -> str:
    """Rehearse in a process of its own, as the nursery is; return what it says."""
    argv = [sys.executable, "-c", _PROGRAM, str(folder), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_it_goes_as_far_as_runsc(tmp_path: Path) -> None:
    """Create prepares everything, and fails only where runsc would make the container."""
    told = rehearsed(tmp_path / "place", "told")

    assert "Create: RunscError: runsc create failed: exit status 1" in told
    assert "Start: NotFound" in told


def test_it_leaves_nothing(tmp_path: Path) -> None:
    """No thread, descriptor, file or word is left, so that the nursery may fork."""
    assert not rehearsed(tmp_path / "place")
    assert list(tmp_path.iterdir()) == []


def test_what_one_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    """The next one takes the place as it finds it."""
    place = tmp_path / "place"
    (place / "shims").mkdir(parents=True)
    (place / "socket").touch()

    assert "runsc create failed" in rehearsed(place, "told")
    assert not place.exists()


def test_without_a_place_the_shims_do_without(tmp_path: Path) -> None:
    """What makes it impossible is no reason not to fork shims."""
    (tmp_path / "file").touch()

    assert "Create" not in rehearsed(tmp_path / "file" / "place", "told")


def test_a_failure_in_the_middle_is_no_end(tmp_path: Path) -> None:
    """The nursery forks all the same, and nothing of the rehearsal is left."""
    broken = """
from shim.entry.shimbin import rehearsal
from shim.errors import Unavailable

async def connect(_path):
    raise Unavailable("nobody there")

rehearsal.Client.connect = connect
"""
    argv = [sys.executable, "-c", broken + _PROGRAM, str(tmp_path / "place"), "told"]

    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "the rehearsal failed" in ran.stdout
    assert list(tmp_path.iterdir()) == []
