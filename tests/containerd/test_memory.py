"""The memory of a shim: what a pod's life adds to what the shims share with the fork server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import RunscBuild
from tests.containerd.builds import LINES
from tests.containerd.conftest import build_of
from tests.containerd.cryo import Cryo
from tests.containerd.look import command_of
from tests.containerd.place import Place

# Python imports it in each process. In a fork it records the modules that are searched for; `wave`
# is one that no shim needs.
_RECORDER = """
import os, sys

class Recorder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        with open(os.environ["CRYO_TEST_MODULES"], "a") as file:
            file.write(name + "\\n")

def in_a_fork():
    sys.meta_path.insert(0, Recorder)
    import wave

os.register_at_fork(after_in_child=in_a_fork)
"""
_FOR_THE_TEST = {"wave"}
# The main thread, those of asyncio, and one for calls into filesystems.
_THREADS_MAX = 5


@pytest.fixture(scope="module")
def modules(place: Place) -> Path:
    """Return the file in which the names of the modules are."""
    return place.folder / "modules.txt"


@pytest.fixture(scope="module")
def node(place: Place, modules: Path, runsc_new: RunscBuild, archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd, with shims that record what they import."""
    folder = place.folder_for("python")
    (folder / "sitecustomize.py").write_text(_RECORDER, "utf-8")
    env = {"PYTHONPATH": str(folder), "CRYO_TEST_MODULES": str(modules)}
    with Cryo(build_of(LINES[-1]), place, runsc_new.path, env=env) as made:
        made.import_image(archive)
        yield made


def test_a_life_imports_nothing(node: Cryo, modules: Path) -> None:
    """A shim has every module before it is forked: one that it imported would be its own."""
    with node.container("sh", "-c", "sleep 1000") as name:
        node.exec(name, "true")
        node.ctr("tasks", "metrics", name)
        node.ctr("tasks", "pause", name)
        node.ctr("tasks", "resume", name)
        node.kill_task(name)
    node.run(node.fresh("attached"), "echo", "hello")

    assert set(modules.read_text("utf-8").split()) == _FOR_THE_TEST


def test_an_idle_shim_has_few_threads(node: Cryo) -> None:
    """A shim has a handful of threads, and no processes but those of the sandbox."""
    with node.container() as name:
        shim = node.shim_of(name)
        children = node.children_of(shim)

        assert len([*Path(f"/proc/{shim}/task").iterdir()]) <= _THREADS_MAX
        assert children
        assert all("runsc" in command_of(pid) for pid in children)
