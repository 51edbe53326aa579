"""The fork server's warm-up: it lives the life of a shim, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

_PROGRAM = """
import logging, os, sys, threading
from pathlib import Path
from shim.entry.shimbin import warmup

call = warmup.Client.call

async def logged(self, service, method, *rest, **more):
    try:
        answer = await call(self, service, method, *rest, **more)
    except Exception as error:
        print(method, "failed:", error)
        raise
    print(method, "succeeded")
    return answer

if "logged" in sys.argv:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    warmup.Client.call = logged
files, environ = os.listdir("/proc/self/fd"), dict(os.environ)
warmup.warm_up(Path(sys.argv[1]))
assert threading.active_count() == 1, threading.enumerate()
assert os.listdir("/proc/self/fd") == files
assert os.environ == environ
children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
assert not children, children
"""


def warmed_up(folder: Path, *words: str) -> str:
    """Warm up in a process of its own, as the fork server does; return what it logs."""
    argv = [sys.executable, "-c", _PROGRAM, str(folder), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_call_of_a_life_succeeds(tmp_path: Path) -> None:
    """A container is created, started, entered, killed and deleted, and its events are taken."""
    reported = warmed_up(tmp_path / "place", "logged")

    counts = Counter(reported.splitlines())
    assert counts["Create succeeded"] == counts["Exec succeeded"] == counts["Kill succeeded"] >= 2
    assert counts["Start succeeded"] == 2 * counts["Create succeeded"]  # the container, the exec
    assert counts["Forward succeeded"] >= 5 * counts["Create succeeded"]
    assert "failed" not in reported


def test_it_leaves_nothing(tmp_path: Path) -> None:
    """No thread, descriptor, file or word is left, so that the fork server may fork."""
    assert not warmed_up(tmp_path / "place")
    assert list(tmp_path.iterdir()) == []


def test_what_one_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    """The next one takes the place as it finds it."""
    place = tmp_path / "place"
    (place / "shims").mkdir(parents=True)
    (place / "socket").touch()

    assert "Create succeeded" in warmed_up(place, "logged")
    assert not place.exists()


def test_without_a_place_the_shims_do_without(tmp_path: Path) -> None:
    """What makes it impossible is no reason not to fork shims."""
    (tmp_path / "file").touch()

    assert "Create" not in warmed_up(tmp_path / "file" / "place", "logged")


def test_a_failure_in_the_middle_is_no_end(tmp_path: Path) -> None:
    """The fork server forks all the same, and nothing is left."""
    broken = """
from shim.entry.shimbin import warmup
from shim.errors import Unavailable

async def connect(_path):
    raise Unavailable("no process there")

warmup.Client.connect = connect
"""
    argv = [sys.executable, "-c", broken + _PROGRAM, str(tmp_path / "place"), "logged"]

    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "the warm-up failed" in ran.stdout
    assert list(tmp_path.iterdir()) == []
