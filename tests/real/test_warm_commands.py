"""`cryo run --warm` and `cryo warm` as typed, with containers that have GPU processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import Rig
from tests.real.test_warm import COUNTS, WAIT_S, Warm

pytestmark = pytest.mark.timeout(240)


class Typed:
    """Commands on the images of one name."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.warm = Warm(rig, name)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a command; return what it prints."""
        argv = [sys.executable, "-m", "shim.entry.cli", "-a", self.rig.sim.address, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT_S)

    def good(self, *words: str) -> str:
        """Type a command that succeeds; return its output."""
        ran = self(*words)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def run(self, task: str, bundle: Path, when: str = "exec /bin/true") -> str:
        """Run a container; return the image that it was restored from, empty if cold."""
        how = ("--warm", self.warm.name, "--warm-when", when, "--bundle", str(bundle))
        self.good("run", "--detach", *how, task)
        return str(self.warm.view(task).restored_from)

    def row(self) -> list[str]:
        """Return what `cryo warm ls` says of the name, without the size."""
        rows = [line.split() for line in self.good("warm", "ls").splitlines()]
        found = next((row for row in rows if row[0] == self.warm.name), [])
        return found[1:2] + found[-6:]

    def until_row(self, *wanted: str) -> None:
        """Wait until `cryo warm ls` says this."""
        wait_until(lambda: self.row() == list(wanted), f"the row {wanted}", WAIT_S)


def test_a_name_from_its_first_save_to_its_end(rig: Rig) -> None:
    """A run is cold and saved, the next restored; hits, misses and refusals are listed."""
    name = "typed"
    typed = Typed(rig, name)
    bundle = rig.sim.bundle("typed", rig.settings(processes=1), inject_tool=False)
    other = rig.sim.bundle("other", rig.settings(processes=2), inject_tool=False)
    assert typed.run("cold", bundle) == ""
    image = typed.warm.until_saved()

    assert typed.run("warm", bundle) == str(image)
    assert rig.fine("warm")
    assert typed.run("other", other, "file:/never") == ""
    # Images, hits, misses, refusals, saves, skips, failures.
    typed.until_row("1", "1", "1", "1", "1", "0", "0")
    shown = typed.good("warm", "show", name).splitlines()
    assert shown[1].split() == [name, "1", "1", "1", "1", "0", "0"]
    (refusal,) = [line for line in shown if " refusal    1 " in line]
    assert "the newest one differs: spec process.args" in refusal
    assert str(image) in shown
    assert not [line for line in shown if line.startswith("  image")]

    typed.good("warm", "drop", name)
    assert typed.row() == []
    missing = typed("warm", "show", name)
    assert missing.returncode != 0
    assert name in missing.stderr

    assert typed.good("warm", "save", name, "warm").strip() in map(str, typed.warm.images())
    assert typed.run("again", bundle) != ""
    assert rig.fine("again")
    typed.until_row("1", "1", "0", "0", "1", "0", "0")


def test_a_run_without_a_gpu(rig: Rig) -> None:
    """The second run of a plain container goes on where the first was saved."""
    typed = Typed(rig, "typed-plain")
    bundle = rig.bundle("plain", ("/bin/sh", "-c", COUNTS))
    assert typed.run("cold", bundle, "exec test -s /tmp/count") == ""
    image = typed.warm.until_saved()

    assert typed.run("warm", bundle) == str(image)

    saved = typed.warm.counts("warm")
    wait_until(lambda: typed.warm.counts("warm") > saved > 0, "progress", WAIT_S)
