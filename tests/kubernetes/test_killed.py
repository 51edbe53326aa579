"""The kubelet, containerd or a shim is killed while a warm pod starts: it runs in the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.containerd.place import Place
from tests.faults import arming
from tests.kubernetes.machine import KILLS, Machine
from tests.kubernetes.node import Extras
from tests.kubernetes.objects import Document
from tests.kubernetes.template import small, warm_small

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
BOOT_S = 5
_HOOKS = {f"io.cryo.hook.{one}": "exec true" for one in ("pre-freeze", "post-thaw", "post-restore")}

# The steps of a cold start with its save, and of a restore: the failpoint, and how often it is
# reached until then.
COLD: Mapping[str, tuple[str, int]] = {
    "sandbox begun": ("runsc.create:begun", 1),
    "sandbox started": ("event.start:before", 1),
    "container begun": ("runsc.create:begun", 2),
    "container started": ("event.start:before", 2),
    "hook before the freeze": ("hook.pre-freeze:after", 1),
    "image begun": ("image.begin:after", 1),
    "freeze and save begun": ("runsc.checkpoint:begun", 1),
    "saved": ("runsc.checkpoint:after", 1),
    "hook after the thaw": ("hook.post-thaw:after", 1),
    "sealed": ("image.manifest:after", 1),
    "image has its name": ("image.name:after", 1),
    "journal closed": ("journal.close:after", 1),
}
WARM: Mapping[str, tuple[str, int]] = {
    "image pinned": ("event.create:before", 1),
    "sandbox begun": ("runsc.restore:begun", 1),
    "sandbox made": ("runsc.restore:after", 1),
    "load begun": ("runsc.restore:begun", 2),
    "loaded": ("runsc.restore:after", 2),
    "hook after the restore": ("hook.post-restore:after", 1),
    "journal closed": ("journal.close:after", 1),
}


@pytest.fixture(scope="module")
def extras(place: Place, trap_file: Path) -> Extras:
    """Let the shims read it."""
    return Extras(env=arming.env_of(place.folder / "arming", trap_file))


@pytest.fixture(scope="module")
def saved(machine: Machine) -> tuple[str, str]:
    """Save a pod; return the name of its image, and what is in it."""
    (pod,) = pods(machine, "loading", 1)
    return "loading", machine.save(pod, "loading")


def pods(machine: Machine, name: str, number: int, kind: str = "") -> list[Document]:
    """Return pods of a template that is warm by a name."""
    notes = {**warm_small(name), **_HOOKS}
    node = machine.cluster.node
    return [
        small(f"{name}{kind}-{one + 1}", node=node, annotations=notes, boot_s=BOOT_S)
        for one in range(number)
    ]


def called(step: str, killed: str) -> str:
    """Return a part of the name of a case's pods."""
    return f"-{step.replace(' ', '-')}-{killed}"


@pytest.mark.parametrize("killed", KILLS)
def test_killed_in_a_cold_start(machine: Machine, killed: str) -> None:
    """The pod starts all the same, and is saved; the next one is restored."""
    name = f"cold-{killed}"
    first, second = pods(machine, name, 2)

    KILLS[killed](machine, machine.begin(first))

    machine.until_saved(first, second, name)
    machine.end(first, second)


@pytest.mark.parametrize("killed", KILLS)
def test_killed_in_a_warm_start(machine: Machine, killed: str, saved: tuple[str, str]) -> None:
    """The pod starts, warm or cold, and the image serves the next one."""
    name, birth = saved
    second, third = pods(machine, name, 2, f"-{killed}")

    KILLS[killed](machine, machine.begin(second))

    machine.until_served(second, third, birth)
    machine.end(second, third)


@pytest.mark.parametrize("killed", KILLS)
@pytest.mark.parametrize("step", COLD)
def test_killed_at_a_step_of_a_cold_start(machine: Machine, step: str, killed: str) -> None:
    """The pod runs in the end and there is one complete image; the next pod is restored from it."""
    name = f"cold{called(step, killed)}"
    first, second = pods(machine, name, 2)

    KILLS[killed](machine, machine.halt(first, *COLD[step]))

    machine.until_saved(first, second, name)
    machine.end(first, second)


@pytest.mark.parametrize("killed", KILLS)
@pytest.mark.parametrize("step", WARM)
def test_killed_at_a_step_of_a_warm_start(
    machine: Machine, step: str, killed: str, saved: tuple[str, str]
) -> None:
    """The pod runs in the end, warm or cold, and so does the next one."""
    name, birth = saved
    second, third = pods(machine, name, 2, called(step, killed))

    KILLS[killed](machine, machine.halt(second, *WARM[step]))

    machine.until_served(second, third, birth)
    machine.end(second, third)
