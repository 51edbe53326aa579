"""Images that this host has read before: loaded while they are verified, seen only afterwards."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import CryoError, ImageCorrupt
from shim.model import RestoreOptions, Verify
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.gated import gated
from tests.real.helpers_rig import WAIT_S, Background, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(180)
_names = itertools.count()


class Watched:
    """A machine whose calls of runsc are recorded."""

    def __init__(self, rig: Rig, calls: Path) -> None:
        self.rig = rig
        self._calls = calls

    def forget(self) -> None:
        """Forget the calls until now."""
        self._calls.write_text("")

    def called(self, *commands: str) -> list[str]:
        """Return the calls of these commands for a bundle since then."""
        lines = self._calls.read_text().splitlines()
        return [line for line in lines if {*commands} & set(line.split()) and "--bundle=" in line]

    def until_loading(self) -> None:
        """Wait until runsc loads an image."""
        wait_until(lambda: bool(self.called("restore")), "a load", WAIT_S)

    def made_nothing(self, *names: str) -> None:
        """Check that no task and no sandbox has one of these names."""
        assert not {view.id for view in self.rig.client.list()} & {*names}
        words = self.rig.commands()
        assert not {f"{name}+" for name in names} & words


@pytest.fixture(scope="module")
def watched(runsc: RunscBuild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Give one."""
    folder = tmp_path_factory.mktemp("watched")
    calls, program = folder / "calls", folder / "runsc"
    calls.touch(mode=0o600)
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {runsc.path} "$@"\n')
    program.chmod(0o755)
    with machine_with(dataclasses.replace(runsc, path=program)) as rig:
        yield Watched(rig, calls)


@pytest.fixture
def rig(watched: Watched) -> Iterator[Rig]:
    """Give its machine, which is cleared afterwards."""
    watched.forget()
    yield watched.rig
    watched.rig.clear()
    assert watched.rig.leftovers() == []


def saved(rig: Rig) -> Path:
    """Return the image of a plain container."""
    name = f"saved-{next(_names)}"
    rig.sleeper(name)
    image = rig.checkpoint(name).image_path
    rig.end(name)
    return Path(image)


def damage(image: Path) -> None:
    """Change the last byte of its pages."""
    with (image / "pages.img").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def test_an_image_is_loaded_while_it_is_verified(watched: Watched, rig: Rig) -> None:
    """The load has begun and no page is read; the task runs when both are over."""
    image = saved(rig)
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image, verify=Verify.FULL))
        gate.until_asked()
        watched.until_loading()
        assert [view.state for view in rig.client.list()] == [TaskState.RESTORING]

        gate.open()
        restore.result()

    assert rig.client.state("copy").state is TaskState.RUNNING


@pytest.mark.parametrize("mode", (Verify.FULL, Verify.AUTO))
def test_damage_that_is_found_meanwhile(watched: Watched, rig: Rig, mode: Verify) -> None:
    """The load has begun; no task is left, and an intact image is restored afterwards."""
    image = saved(rig)
    damage(image)
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image, verify=mode))
        gate.until_asked()
        watched.until_loading()
        gate.open()
        error = refused(ImageCorrupt, restore.result)

    assert "pages.img was changed after it was sealed" in error.message
    watched.made_nothing("copy")
    damage(image)
    rig.restore("copy", image)
    assert rig.client.state("copy").state is TaskState.RUNNING


@pytest.mark.parametrize("how", ("elsewhere", "first", "untrusted"))
def test_what_is_verified_first(watched: Watched, rig: Rig, how: str) -> None:
    """An image that was never read here, or as the caller asks: runsc makes nothing of damage."""
    image = saved(rig)
    damage(image)
    if how == "elsewhere":
        for entry in (rig.sim.folder / "verified").iterdir():
            entry.unlink()
    mode = Verify.FIRST if how == "first" else Verify.FULL
    watched.forget()

    refused(
        ImageCorrupt,
        lambda: rig.restore("copy", image, verify=mode, untrusted_folder=how == "untrusted"),
    )

    assert watched.called("restore", "create") == []
    watched.made_nothing("copy")


def test_gpu_processes_stay_frozen(watched: Watched, rig: Rig, engine: str) -> None:
    """None is thawed from damaged pages; runsc's own engine, which would, is not started."""
    if engine == "builtin" and not rig.build.has_builtin:
        pytest.skip("this runsc has no engine of its own")
    rig.workload("gpu", processes=2)
    image = Path(rig.checkpoint("gpu", engine, exit=True).image_path)
    rig.client.delete("gpu")
    damage(image)
    rig.sim.calls(clear=True)
    watched.forget()
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image))
        gate.until_asked()
        if engine == "phased":
            watched.until_loading()
        gate.open()
        refused(ImageCorrupt, restore.result)

    assert bool(watched.called("restore")) is (engine == "phased")
    assert [call for call in rig.sim.calls() if call.action in ("restore", "toggle")] == []
    watched.made_nothing("copy")
    damage(image)
    rig.restore("copy", image)
    assert rig.fine("copy")


def test_a_kill_meanwhile(watched: Watched, rig: Rig) -> None:
    """It ends the load and the reading, and leaves nothing."""
    image = saved(rig)
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image))
        gate.until_asked()
        watched.until_loading()
        kill = Background(lambda: rig.client.kill("copy", 9))
        gate.open()
        with pytest.raises(CryoError, match="was killed"):
            restore.result()
        kill.result()

    watched.made_nothing("copy")


def test_a_sidecar_that_is_killed_meanwhile(watched: Watched, rig: Rig) -> None:
    """The next one removes what was made: it was not verified."""
    image = saved(rig)
    with gated(rig.sim, image / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", image))
        gate.until_asked()
        watched.until_loading()
        rig.sim.kill_sidecar()
        gate.open()
        with pytest.raises(CryoError):
            restore.result()
    rig.start_sidecar()

    wait_until(lambda: rig.client.list() == [], "the removal", WAIT_S)
    watched.made_nothing("copy")


def test_clones_of_a_damaged_image(watched: Watched, rig: Rig) -> None:
    """The pages are read once beside all loads; the error is that of the call."""
    image = saved(rig)
    damage(image)
    options = {name: RestoreOptions(image_path=str(image)) for name in ("c-1", "c-2")}
    with gated(rig.sim, image / "pages.img") as gate:
        cloning = Background(lambda: rig.client.clone(options))
        gate.until_asked()
        wait_until(lambda: len(watched.called("restore")) == len(options), "two loads", WAIT_S)
        gate.open()
        refused(ImageCorrupt, cloning.result)

    watched.made_nothing(*options)
