"""The sidecar serves containerd's tasks, over the protocol that works with each release.

Of our lines only 2.1 and 2.4 accept the address of a task's server. 2.4 loses a task over gRPC at
once, and 2.1 cannot reconnect over ttrpc.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.examples.task_api import Containerd, Story, spec
from hack.tools.running import NotHere
from shim.client import Client
from shim.state import TaskState
from tests.builds import RunscBuild, excuse
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.place import Place
from tests.containerd.sidecar import WithSidecar, write_rootfs

ROUTES = (("2.1", "grpc"), ("2.4", "ttrpc"))
SLEEP = ("/bin/sleep", "1000")


@pytest.fixture(scope="module", params=ROUTES, ids="-".join)
def route(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a line of containerd, and how it connects to the Task service."""
    line, how = request.param
    return line, how


@pytest.fixture(scope="module")
def both(route: tuple[str, str], place: Place, runsc_new: RunscBuild) -> Iterator[WithSidecar]:
    """Yield a running containerd and sidecar."""
    line, how = route
    try:
        build = find_containerd(line)
    except NotHere as no:
        excuse(str(no))
    with WithSidecar(build, place, runsc_new.path, how) as made:
        made.ctr("namespaces", "create", made.namespace)
        rootfs = write_rootfs(made.rootfs, program("busybox"))
        # The first task creates directories that all later ones share.
        with (
            Containerd(str(made.address), made.task_api, made.namespace) as containerd,
            Story(containerd, rootfs, made.folder).running("first", SLEEP),
        ):
            made.exec("first", "true")
        yield made


@pytest.fixture
def story(both: WithSidecar, tmp_path: Path) -> Iterator[Story]:
    """Yield the example program's commands; afterwards check that nothing is left."""
    before = both.look()
    with Containerd(str(both.address), both.task_api, both.namespace) as containerd:
        yield Story(containerd, both.rootfs, tmp_path)
    left = both.left_behind(before)
    assert not left, "\n".join(left)


def test_the_example(both: WithSidecar) -> None:
    """The example saves and restores a container, and containerd gets all events.

    containerd calls Shutdown after each task; the sidecar keeps running.
    """
    before = both.look()
    with both.events() as events:
        said = both.example().out
        ends = [json.loads(event.body) for event in events.until("/tasks/exit", 4)]

    counts = [int(found) for found in re.findall(r" is RUNNING, at (\d+)", said)]
    assert len(counts) == 2
    assert counts[1] >= counts[0] > 0
    assert [end.get("exit_status", 0) for end in ends if end["id"] != "ask"] == [137, 137]
    assert "/tasks/checkpointed" in events.topics()
    assert both.sidecar_runs
    left = both.left_behind(before)
    assert not left, "\n".join(left)


def test_ctr_sees_it(both: WithSidecar, story: Story) -> None:
    """`ctr` lists such a task, pauses it and runs programs in it; the sidecar owns it."""
    with story.running("seen", SLEEP):
        assert both.status("seen") == "RUNNING"
        assert both.exec("seen", "echo", "hello").out == "hello\n"
        both.ctr("tasks", "pause", "seen")
        assert both.status("seen") == "PAUSED"
        both.ctr("tasks", "resume", "seen")
        with Client(both.sidecar, namespace=both.namespace) as client:
            assert [view.id for view in client.list()] == ["seen"]
    assert both.tasks() == {}


def test_a_checkpoint_that_leaves_it(both: WithSidecar, story: Story) -> None:
    """A task that is saved without `--exit` keeps running."""
    with story.running("stays", SLEEP):
        story.containerd.checkpoint("stays", str(story.scratch / "image"), leave=True)
        assert both.status("stays") == "RUNNING"


def test_containerd_comes_back(both: WithSidecar, story: Story) -> None:
    """A task survives containerd, which finds it again."""
    with story.running("outlives", SLEEP):
        both.kill()
        both.start()
        both.until_status("outlives", "RUNNING")


@pytest.mark.parametrize("route", ROUTES[:1], indirect=True, ids="-".join)
def test_the_sidecar_comes_back(both: WithSidecar, story: Story) -> None:
    """Over gRPC tasks stay in containerd when a sidecar is killed and restarted."""
    with both.events() as events:
        with story.running("again", SLEEP):
            both.kill_sidecar()
            both.start_sidecar()
            both.until_status("again", "RUNNING")
        (end,) = events.until("/tasks/exit")
    assert json.loads(end.body)["exit_status"] == 137


@pytest.mark.parametrize("route", ROUTES[1:], indirect=True, ids="-".join)
def test_containerd_loses_sight(both: WithSidecar, story: Story) -> None:
    """Over ttrpc containerd takes a sidecar's death for the exit of its task, which still runs."""
    story.containerd.create_container("lost", spec(SLEEP))
    story.containerd.create("lost", story.rootfs)
    story.containerd.start("lost")
    with both.events() as events:
        both.kill_sidecar()
        (end,) = events.until("/tasks/exit")
        assert json.loads(end.body)["exit_status"] == 255
        both.until_status("lost", "")
    both.start_sidecar()

    with Client(both.sidecar, namespace=both.namespace) as client:
        assert client.state("lost").state is TaskState.RUNNING
        client.kill("lost", signal.SIGKILL)
        client.wait("lost")
        client.delete("lost")
    story.containerd.delete_container("lost")
