"""The Task service on real runsc: exits, signals, execs, and ids that begin alike."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest

from shim.errors import FailedPrecondition, IllegalState, NotFound, Unimplemented
from shim.model import Stdio
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.real.helpers_rig import WAIT_S, Background, Output, Rig, refused

pytestmark = pytest.mark.timeout(60)


def shell(script: str) -> tuple[str, ...]:
    """Return the command line of a script."""
    return ("/bin/sh", "-c", script)


# Exits.


@pytest.mark.parametrize(
    ("script", "status"),
    (("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("sleep 0.2; exit 3", 3), ("exec false", 1)),
)
def test_exit_status(rig: Rig, script: str, status: int) -> None:
    """A task's own exit status is known, however soon it ended."""
    rig.program("job", *shell(script))

    ended = rig.client.wait("job")

    assert ended.status == status
    view = rig.client.state("job")
    assert (view.state, view.exit) == (TaskState.STOPPED, ended)
    assert rig.client.delete("job").exit == ended


def test_quick_exits_are_never_missed(rig: Rig) -> None:
    """Tasks that end in their first milliseconds all have the right status."""

    def live(number: int) -> int:
        name = f"quick{number}"
        rig.program(name, *shell(f"exit {number}"))
        status = rig.client.wait(name).status
        rig.client.delete(name)
        return status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(live, range(10))) == list(range(10))


def test_signals(rig: Rig) -> None:
    """A signal reaches the init process, which may answer; KILL always ends it."""
    rig.program("polite", *shell("trap 'exit 9' TERM; while :; do sleep 0.1; done"))
    rig.sleeper("deaf")
    wait_until(lambda: len(rig.client.pids("polite")) > 1, "its loop", WAIT_S)

    assert rig.end("polite", signal.SIGTERM).status == 9
    assert rig.end("deaf", signal.SIGKILL).status == 137


def test_kill_of_all(rig: Rig) -> None:
    """With `everyone` the children get the signal too."""
    rig.program("job", *shell("sleep 1000 & sleep 1000 & trap 'exit 4' TERM; wait; exit 5"))
    wait_until(lambda: len(rig.client.pids("job")) == 3, "its children", WAIT_S)
    rig.client.kill("job", signal.SIGTERM, everyone=True)

    assert rig.client.wait("job").status == 4


def test_paused_task_can_be_killed(rig: Rig) -> None:
    """Runsc refuses to signal what is paused; a kill resumes it first."""
    rig.sleeper("job")
    rig.client.pause("job")

    assert rig.end("job").status == 137


def test_created_task_can_be_killed_and_deleted(rig: Rig) -> None:
    """What was never started ends with its status too."""
    bundle = str(rig.bundle("job", ["/bin/sleep", "9"]))
    rig.client.create("job", bundle)
    rig.client.kill("job", signal.SIGKILL)
    assert rig.client.wait("job").status == 137
    rig.client.delete("job")
    rig.client.create("job", bundle)
    rig.client.delete("job")

    assert rig.client.list() == []


def test_pause_stops_and_resume_goes_on(rig: Rig) -> None:
    """A paused task makes no step."""
    output = Output(rig, "steps")
    rig.program("job", *shell("while :; do echo x; sleep 0.02; done"), stdio=output.stdio)
    output.until("x")
    rig.client.pause("job")
    before = output.text()
    assert rig.client.state("job").state is TaskState.PAUSED
    # As long as ten steps: what must not happen has no event.
    threading.Event().wait(0.2)
    assert output.text() == before
    rig.client.resume("job")
    wait_until(lambda: len(output.text()) > len(before), "another step", WAIT_S)


def test_many_wait_for_one_end(rig: Rig) -> None:
    """Every waiter, before or after, gets the same exit at once."""
    rig.sleeper("job")
    waiting = [Background(partial(rig.client.wait, "job")) for _ in range(12)]
    rig.client.kill("job", signal.SIGKILL)

    answers = {waiter.result() for waiter in waiting}
    answers.add(rig.client.wait("job"))

    assert len(answers) == 1
    assert answers.pop().at - rig.client.list()[0].created_at < timedelta(seconds=60)


# Execs.


def test_exec_status(rig: Rig) -> None:
    """An added process's status is its own; the task goes on."""
    rig.sleeper("job")
    for status in (0, 7, 255):
        name = f"e{status}"
        pid = rig.execute("job", name, *shell(f"exit {status}"))
        assert pid > 1
        ended = rig.client.wait("job", name)
        assert ended.status == status
        assert rig.client.delete("job", name).exit == ended
    assert rig.client.state("job").state is TaskState.RUNNING


def test_exec_is_killed_alone(rig: Rig) -> None:
    """A signal to an exec ends that one and no other."""
    rig.sleeper("job")
    rig.execute("job", "a", "/bin/sleep", "1000")
    rig.execute("job", "ab", "/bin/sleep", "1000")
    refused(IllegalState, lambda: rig.client.delete("job", "a"))

    rig.client.kill("job", signal.SIGKILL, exec_id="a")

    assert rig.client.wait("job", "a").status == 137
    refused(NotFound, lambda: rig.client.kill("job", signal.SIGKILL, exec_id="a"))
    assert rig.client.delete("job", "a").exec_id == "a"
    assert rig.client.state("job", "ab").state is TaskState.RUNNING
    assert rig.client.list()[0].execs == ("ab",)
    assert len(rig.client.pids("job")) == 2


def test_execs_end_with_their_task(rig: Rig) -> None:
    """The end of the task is the end of everything in it."""
    rig.sleeper("job")
    rig.execute("job", "e", "/bin/sleep", "1000")
    waiting = Background(lambda: rig.client.wait("job", "e"))
    rig.client.kill("job", signal.SIGKILL)

    assert rig.client.wait("job").status == 137
    assert waiting.result().status == 137
    assert rig.client.delete("job").exit is not None


def test_exec_at_the_wrong_time(rig: Rig) -> None:
    """Only a running task takes another process; a name is used once at a time."""
    rig.sleeper("job")
    rig.client.pause("job")
    refused(IllegalState, lambda: rig.execute("job", "e", "/bin/true"))
    rig.client.resume("job")
    rig.execute("job", "e", "/bin/true")
    rig.client.wait("job", "e")
    refused(IllegalState, lambda: rig.client.start("job", "e"))
    rig.client.delete("job", "e")
    rig.execute("job", "e", "/bin/true")
    assert rig.client.wait("job", "e").status == 0


def test_exec_environment(rig: Rig) -> None:
    """An added process has the working directory, environment and user that it asked for."""
    rig.sleeper("job")
    output = Output(rig, "env")
    process = {
        "args": ["/bin/sh", "-c", "pwd; echo $WHO; id -u"],
        "cwd": "/usr/bin",
        "env": ["PATH=/bin:/usr/bin", "WHO=me"],
        "user": {"uid": 65534, "gid": 65534},
    }
    rig.client.exec("job", "e", process, Stdio(stdout=output.stdio.stdout))
    rig.client.start("job", "e")

    assert rig.client.wait("job", "e").status == 0
    assert output.text().split() == ["/usr/bin", "me", "65534"]


# What can be asked.


def test_pids_and_stats(rig: Rig) -> None:
    """Processes by the container's own numbers; resident memory in bytes."""
    rig.program("job", *shell("sleep 1000 & sleep 1000; :"))
    wait_until(lambda: len(rig.client.pids("job")) == 3, "its children", WAIT_S)

    assert min(rig.client.pids("job")) == 1
    stats = rig.client.stats("job")
    assert stats.pids >= 1
    assert stats.memory_bytes > 0


def test_processor_time_is_the_tasks_own(rig: Rig) -> None:
    """An idle task uses next to none, a busy one ever more, whatever the host does besides."""
    rig.sleeper("idle")
    rig.program("busy", *shell("while :; do :; done"))
    second = 1_000_000_000

    def used(name: str) -> int:
        return rig.client.stats(name).cpu_usage_ns

    wait_until(lambda: used("busy") > second // 2, "half a second of work", WAIT_S)
    assert 0 < used("idle") < second
    assert used("busy") < 20 * second


@pytest.mark.every_combination
def test_update_is_what_runsc_can_do(rig: Rig) -> None:
    """The old runsc has no update; the new one has no cgroup here, and says so."""
    rig.sleeper("job")
    kind = FailedPrecondition if rig.build.has_builtin else Unimplemented
    refused(kind, lambda: rig.client.update("job", {"memory": {"limit": 1 << 30}}))


def test_wrong_moments(rig: Rig) -> None:
    """Each operation in a state that does not allow it is refused, and changes nothing."""
    rig.sleeper("job")
    refused(IllegalState, lambda: rig.client.start("job"))
    refused(IllegalState, lambda: rig.client.resume("job"))
    refused(IllegalState, lambda: rig.client.delete("job"))
    rig.client.pause("job")
    refused(IllegalState, lambda: rig.client.pause("job"))
    refused(IllegalState, lambda: rig.client.delete("job"))
    rig.client.kill("job", signal.SIGKILL)
    rig.client.wait("job")
    refused(IllegalState, lambda: rig.client.pause("job"))
    refused(NotFound, lambda: rig.client.kill("job", signal.SIGKILL))
    refused(NotFound, lambda: rig.client.stats("job"))


@pytest.mark.every_combination
def test_information_names_what_is_used(rig: Rig) -> None:
    """`info` prints the runsc, its engines, the driver, the GPU, and what makes it slow."""
    info = rig.client.info()

    assert info["runsc"] == str(rig.build.path)
    assert ("builtin" in info["engines"]) == rig.build.has_builtin
    assert info["driver"] == "570.195.03"
    assert "Simulated" in info["gpus"]
    assert "shmem_enabled" in info["huge_pages"]
    assert (info["persistence_mode"], info["warnings"]) == ("on", "none")


# Ids.


@pytest.mark.parametrize("order", (("a", "ab"), ("ab", "a")))
def test_ids_that_begin_alike(rig: Rig, order: tuple[str, str]) -> None:
    """Runsc takes the beginning of an id for the id; no operation on `a` ever touches `ab`."""
    for name in order:
        rig.sleeper(name)
    rig.execute("a", "e", "/bin/sleep", "1000")
    assert len(rig.client.pids("ab")) == 1
    rig.client.pause("a")
    assert rig.client.state("ab").state is TaskState.RUNNING
    rig.client.resume("a")
    made = rig.checkpoint("ab")
    rig.client.kill("a", signal.SIGKILL, exec_id="e")
    rig.client.wait("a", "e")

    rig.end("a")

    refused(NotFound, lambda: rig.client.kill("a", signal.SIGKILL))
    refused(NotFound, lambda: rig.client.delete("a"))
    refused(NotFound, lambda: rig.checkpoint("a"))
    refused(NotFound, lambda: rig.execute("a", "e", "/bin/true"))
    assert rig.client.state("ab").state is TaskState.RUNNING
    assert rig.client.pids("ab") == [1]
    rig.restore("a", made.image_path)
    rig.end("ab")
    assert rig.client.pids("a") == [1]
