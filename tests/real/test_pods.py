"""Several containers in one sandbox: saved as one, and all of them brought back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shim.errors import (
    AlreadyExists,
    CudaError,
    IllegalState,
    ImageCorrupt,
    InvalidArgument,
)
from shim.model import CheckpointResult, MemberOptions
from shim.simgpu.simulation import Fault, Kind, Settings
from shim.state import TaskState
from tests.real.helpers_rig import PERIOD_S, Rig, refused

CRI = "io.kubernetes.cri"


@dataclass(frozen=True)
class Pod:
    """A sandbox with a GPU workload of two processes and a plain one."""

    rig: Rig
    sandbox: str = "pod"
    train: str = "train"
    count: str = "count"

    @property
    def ids(self) -> tuple[str, str, str]:
        """Name all, the sandbox first."""
        return (self.sandbox, self.train, self.count)

    def begin(self, **train: Any) -> None:
        """Start all of them."""
        self.rig.client.create(self.sandbox, str(self.pause()))
        self.rig.client.start(self.sandbox)
        self.join(self.train, Settings(**{"processes": 2, "period_s": PERIOD_S} | train))
        self.join(self.count, Settings(gpu=False, resident_mib=4, period_s=PERIOD_S))

    def pause(self) -> Path:
        """Write the bundle of a sandbox that does nothing itself."""
        folder = self.rig.bundle(self.sandbox, ("/bin/sleep", "10000"))
        self.annotate(folder, "sandbox", self.sandbox)
        return folder

    def member(self, name: str, settings: Settings) -> Path:
        """Write the bundle of a container that joins."""
        folder = self.rig.sim.bundle(name, settings, inject_tool=False)
        self.annotate(folder, "container", name)
        return folder

    def annotate(self, folder: Path, kind: str, name: str) -> None:
        """Say in a bundle what the CRI plugin says."""
        with self.rig.edited(folder) as spec:
            spec["annotations"] = {
                f"{CRI}.container-type": kind,
                f"{CRI}.sandbox-id": self.sandbox,
                f"{CRI}.container-name": name,
            }

    def join(self, name: str, settings: Settings) -> None:
        """Start a container in the sandbox, and wait for its first steps."""
        self.rig.client.create(name, str(self.member(name, settings)))
        self.rig.client.start(name)
        self.rig.sim.until_ready(self.rig.guest, name)

    @property
    def fine(self) -> bool:
        """Whether both workloads go on and have lost nothing."""
        return self.rig.fine(self.train) and self.rig.fine(self.count)

    @property
    def states(self) -> list[TaskState]:
        """Tell the states of all."""
        found = {view.id: view.state for view in self.rig.client.list()}
        return [found[name] for name in self.ids]

    def remove(self) -> None:
        """End and delete all, the sandbox last."""
        for name in reversed(self.ids):
            self.rig.end(name)


@pytest.fixture
def pod(rig: Rig) -> Iterator[Pod]:
    """Give a pod that runs."""
    made = Pod(rig)
    made.begin()
    yield made


RUNNING = [TaskState.RUNNING] * 3


def beside(pod: Pod, made: CheckpointResult) -> Pod:
    """Restore a pod under other ids."""
    other = Pod(pod.rig, "pod2", "train2", "count2")
    pairs = zip(pod.ids[1:], other.ids[1:], strict=True)
    members = tuple(MemberOptions(saved=old, id=new) for old, new in pairs)
    result = pod.rig.restore(other.sandbox, made.image_path, members=members)
    assert result.members == other.ids[1:]
    assert {one.container for one in result.processes} == {other.train}
    return other


def test_a_pod_is_killed_and_comes_back(pod: Pod, engine: str) -> None:
    """A save through any member is of all; all come back under their ids and go on."""
    made = pod.rig.checkpoint("count", engine)
    assert pod.fine
    assert pod.states == RUNNING
    pod.remove()

    result = pod.rig.restore("pod", made.image_path)

    assert made.members == ("train", "count")
    assert [one.container for one in made.processes] == ["train", "train"]
    assert result.members == made.members
    assert result.processes == made.processes
    assert pod.states == RUNNING
    assert pod.fine
    pod.remove()
