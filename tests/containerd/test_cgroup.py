"""Containers that exceed their memory limit."""

from __future__ import annotations

import pytest

from tests.containerd.cryo import Cryo

pytestmark = pytest.mark.usefixtures("nothing_left")

_LIMITED = ("--memory-limit", str(160 << 20))
# tail buffers an endless input without line breaks.
_EAT = ("tail", "/dev/zero")


def test_out_of_memory(cryo: Cryo) -> None:
    """A container above its limit exits as killed; an event reports the reason before."""
    with cryo.events() as events:
        name = cryo.fresh("greedy")
        flags = ("--rm", *_LIMITED)
        ran = cryo.run(name, *_EAT, flags=flags, check=False)
        events.until("/tasks/delete")

    life = ["create", "start", "oom", "exit", "delete"]
    assert events.topics() == [f"/tasks/{topic}" for topic in life]
    assert f'"container_id":"{name}"' in events.of("/tasks/oom")[0].body
    assert ran.status == 137
