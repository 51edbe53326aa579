"""The harness with runc: the behaviour of containerd without our shim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containerd.harness import Containerd
from tests.containerd.image import REFERENCE


@pytest.fixture(autouse=True)
def nothing_left(containerd: Containerd) -> Iterator[None]:
    """Check that the test has left nothing behind."""
    before = containerd.look()
    yield
    left = containerd.left_behind(before)
    assert not left, "\n".join(left)


@pytest.mark.parametrize("code", (0, 7, 137))
def test_run_to_the_end(containerd: Containerd, code: int) -> None:
    """An attached run returns the container's output and exit code."""
    ran = containerd.run("one", "sh", "-c", f"echo hello; exit {code}", check=False)

    assert ran.out == "hello\n"
    assert ran.status == code


def test_a_container_that_stays(containerd: Containerd) -> None:
    """A detached container runs, takes an exec, is killed, is STOPPED, and is deleted."""
    containerd.run("stays", "sleep", "100", flags=("-d",))

    assert containerd.status("stays") == "RUNNING"
    exec_ = ("tasks", "exec", "--exec-id", "e1", "stays", "sh", "-c", "echo in; exit 3")
    ran = containerd.ctr(*exec_, check=False)
    assert (ran.out, ran.status) == ("in\n", 3)
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", "stays")
    containerd.until_status("stays", "STOPPED")
    assert "exit code 137" in containerd.ctr("tasks", "delete", "stays").err
    containerd.ctr("containers", "delete", "stays")


def test_input_reaches_the_container(containerd: Containerd) -> None:
    """The input of an attached run arrives, including its end of file."""
    flags = ("--rm", "--runtime", "io.containerd.runc.v2", "--snapshotter", "native")
    argv = ("run", *flags, REFERENCE, "input", "cat")

    ran = containerd.ctr_with_input("input", *argv, text=b"to and fro\n")

    assert ran.out == "to and fro\n"


def test_a_terminal(containerd: Containerd) -> None:
    """A container's terminal has the size of ctr's, and receives what is typed."""
    flags = ("--rm", "-t", "--runtime", "io.containerd.runc.v2", "--snapshotter", "native")
    # ctr sets the size after the start, and busybox does not fail without a size.
    wait = 'until s=$(stty size 2>/dev/null) && [ "$s" ]; do sleep 0.05; done'
    script = f"{wait}; echo $s; read line; echo got $line"

    ran = containerd.ctr_on_terminal(
        "run", *flags, REFERENCE, "tty", "sh", "-c", script, typed="typed\n", size="33x99"
    )

    assert "33 99" in ran.out
    assert "got typed" in ran.out


def test_a_crash_of_containerd(containerd: Containerd) -> None:
    """A task survives containerd, and a new containerd lists it."""
    containerd.run("survivor", "sleep", "100", flags=("-d",))
    pid = containerd.tasks()["survivor"][0]

    containerd.kill()
    containerd.start()

    assert containerd.tasks()["survivor"] == (pid, "RUNNING")
    containerd.ctr("tasks", "delete", "--force", "survivor", check=False)
    containerd.ctr("containers", "delete", "survivor")


def test_events_are_seen(containerd: Containerd) -> None:
    """The events of a container's start arrive, in order.

    Those of its exit are not checked: runc's shim loses a few in a hundred when it stops, and
    their order varies.
    """
    with containerd.events() as events:
        containerd.run("seen", "true")
        events.until("/tasks/start")

    assert events.topics()[:2] == ["/tasks/create", "/tasks/start"]
    assert '"container_id":"seen"' in events.of("/tasks/start")[0].body
