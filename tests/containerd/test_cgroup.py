"""Containers that take more memory than they may."""

from __future__ import annotations

import pytest

from tests.containerd.cryo import Cryo

pytestmark = pytest.mark.usefixtures("nothing_left")

_LIMITED = ("--memory-limit", str(160 << 20))
# It looks for the last lines of what has no line breaks and no end.
_EAT = ("tail", "/dev/zero")


def test_out_of_memory(cryo: Cryo) -> None:
    """A container that takes too much ends as one that was killed, and first an event says why."""
    with cryo.events() as events:
        name = cryo.fresh("greedy")
        flags = ("--rm", *_LIMITED)
        ran = cryo.run(name, *_EAT, flags=flags, check=False)
        events.until("/tasks/delete")

    life = ["create", "start", "oom", "exit", "delete"]
    assert events.topics() == [f"/tasks/{topic}" for topic in life]
    assert f'"container_id":"{name}"' in events.of("/tasks/oom")[0].body
    assert ran.status == 137
