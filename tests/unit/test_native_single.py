"""cryo-cuda on one process, as cuda-checkpoint: words, states, exit codes, deadlines."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.cuda import native
from shim.simgpu.fault import Fault, Kind
from tests.builds import excuse
from tests.unit.fakes_native import FakeDriver, Ground, ground, missing

OLD_GPU = "GPU-5c1a7e00-0000-4000-8000-0000c0ffee00"
NEW_GPU = "GPU-5c1a7e00-0000-4000-8000-0000c0ffee01"
# The newest version that a manylinux_2_17 wheel may ask for.
NEWEST_GLIBC = (2, 17)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ground]:
    """Give a place with one CUDA process."""
    if reason := missing():
        excuse(reason)
    with ground(tmp_path) as made:
        yield made


def driver(here: Ground) -> FakeDriver:
    """Return the only process's driver."""
    return next(iter(here.drivers.values()))


def pid(here: Ground) -> str:
    """Return the only process's number."""
    return str(here.pids[0])


@pytest.mark.parametrize("state", ("running", "locked", "checkpointed", "failed"))
def test_state(one: Ground, state: str) -> None:
    """The state is one word on a line."""
    driver(one).state = state

    said = one.run("--get-state", "--pid", pid(one))

    assert (said.status, said.out, said.err) == (0, f"{state}\n", "")


def test_the_whole_way(one: Ground) -> None:
    """Four actions lead down and up again, and print nothing."""
    for action, state in (
        ("lock", "locked"),
        ("checkpoint", "checkpointed"),
        ("restore", "locked"),
        ("unlock", "running"),
    ):
        said = one.run("--action", action, "--pid", pid(one))
        assert (said.status, said.out, said.err) == (0, "", "")
        assert driver(one).state == state


def test_short_options_and_the_thread(one: Ground) -> None:
    """The short names are known, and the thread that restores is a number."""
    assert one.run("-a", "lock", "-p", pid(one), "-t", "1500").status == 0
    assert "lock timeout=1500" in driver(one).asked
    assert one.run("--get-restore-tid", "-p", pid(one)).out == "4711\n"


@pytest.mark.parametrize(
    "words",
    (
        "invalid argument",
        "out of memory",
        "initialization error",
        "OS call failed or operation not supported on this OS",
        "the operation cannot be performed in the present state",
        "device not ready",
        "unspecified launch failure",
        "operation not supported",
        "unknown error",
        "something that no driver says",
    ),
)
@pytest.mark.parametrize(
    ("arguments", "verb"),
    (
        (("--action", "lock"), "lock"),
        (("--action", "checkpoint"), "checkpoint"),
        (("--action", "restore"), "restore"),
        (("--action", "unlock"), "unlock"),
        (("--get-state",), "get state"),
        (("--get-restore-tid",), "get restore thread"),
    ),
)
def test_every_error(one: Ground, arguments: tuple[str, ...], verb: str, words: str) -> None:
    """Each error of the driver comes out in its own words, with status 1."""
    driver(one).answer = f"error {words}"

    said = one.run(*arguments, "--pid", pid(one))

    assert said.status == 1
    assert said.err == f'Could not {verb} on process ID {pid(one)}: "{words}"\n'
    assert said.out == ""


def test_a_process_without_cuda(one: Ground) -> None:
    """It has no state to ask for."""
    said = one.run("--get-state", "--pid", "1")

    assert said.status == 1
    assert said.err == 'Could not get state on process ID 1: "initialization error"\n'


def test_toggle_there_and_back(one: Ground) -> None:
    """A toggle suspends what runs and resumes what is suspended; the lock gets a deadline."""
    assert one.run("--toggle", "--pid", pid(one)).status == 0
    assert driver(one).state == "checkpointed"
    assert "lock timeout=30000" in driver(one).asked
    assert one.run("--toggle", "--pid", pid(one)).status == 0
    assert driver(one).state == "running"


@pytest.mark.parametrize("state", ("locked", "failed"))
def test_toggle_does_not_touch_what_it_did_not_expect(one: Ground, state: str) -> None:
    """A half-way or failed state is refused, and stays."""
    driver(one).state = state

    said = one.run("--toggle", "--pid", pid(one))

    words = "the operation cannot be performed in the present state"
    assert said.status == 1
    assert said.err == f'Error toggling CUDA in process ID {pid(one)}: "{words}"\n'
    assert driver(one).asked == ["state"]


def test_toggle_does_not_touch_a_state_that_no_process_knows(one: Ground) -> None:
    """Neither does a word that is no state."""
    driver(one).state = "dancing"

    assert one.run("--toggle", "--pid", pid(one)).status == 1
    assert driver(one).asked == ["state"]


def test_a_toggle_that_fails_leaves_it_running(one: Ground) -> None:
    """A process that was locked and cannot be copied out is unlocked again."""
    one.faults(Fault(action="checkpoint", kind=Kind.FAIL, message="launch failed"))

    said = one.run("--toggle", "--pid", pid(one))

    assert said.status == 1
    assert said.err.endswith('"launch failed"\n')
    assert driver(one).state == "running"


@pytest.mark.parametrize("action", ("lock", "checkpoint"))
def test_a_toggle_whose_driver_lies(one: Ground, action: str) -> None:
    """A success that changed nothing is a failure, and says so."""
    one.faults(Fault(action=action, kind=Kind.WRONG_STATE))

    said = one.run("--toggle", "--pid", pid(one))

    assert said.status == 1
    assert f"after {action}, not" in said.err
    assert driver(one).state == "running"


@pytest.mark.parametrize("action", ("get-state", "lock", "checkpoint", "restore", "unlock"))
def test_a_toggle_has_a_deadline(one: Ground, action: str) -> None:
    """A call that hangs does not keep the tool."""
    driver(one).state = "checkpointed" if action in ("restore", "unlock") else "running"
    one.faults(Fault(action=action, kind=Kind.HANG))
    began = time.monotonic()

    # The driver's own lock timeout comes first, so the lock gets a grace of five seconds.
    # The driver's start has the same limit as a read of the state, and takes long beside a load.
    limits = ("--timeout", "100", "--step-ms", "200", "--detect-ms", "2000")
    said = one.run("--toggle", "--pid", pid(one), *limits)

    assert said.status == 1
    assert "did not " in said.err
    assert time.monotonic() - began < (10 if action == "lock" else 5)


def test_a_toggle_takes_its_deadlines_from_the_environment(one: Ground) -> None:
    """It is started by runsc without options; an option comes first all the same."""
    one.environment |= {"CRYO_CUDA_LOCK_MS": "1234", "CRYO_CUDA_STEP_MS": "200"}
    one.faults(Fault(action="checkpoint", kind=Kind.HANG))

    said = one.run("--toggle", "--pid", pid(one))

    assert "checkpoint: it did not end in 200 ms" in said.err
    assert "lock timeout=1234" in driver(one).asked
    driver(one).state = "running"
    one.run("--toggle", "--pid", pid(one), "--timeout", "99")
    assert "lock timeout=99" in driver(one).asked


def test_an_action_with_a_deadline(one: Ground) -> None:
    """An action that is given one ends at it."""
    one.faults(Fault(action="checkpoint", kind=Kind.HANG))

    said = one.run("--action", "checkpoint", "--pid", pid(one), "--step-ms", "200")

    words = "it did not end in 200 ms"
    assert said.err == f'Could not checkpoint on process ID {pid(one)}: "{words}"\n'


# Threads have stacks that no address space holds, or one that begins the driver and no other.
NO_THREADS = ("--as=1000000000", "--stack=100000000000")
ONE_THREAD = (f"--as={1600 << 20}", f"--stack={1 << 30}")


@pytest.mark.parametrize(
    "arguments", (("--get-state",), ("--action", "checkpoint"), ("--toggle",)), ids=" ".join
)
def test_a_call_without_a_thread_is_not_late(one: Ground, arguments: tuple[str, ...]) -> None:
    """A call that was never made is reported as that, and not as one that hangs."""
    said = one.run(*arguments, "--pid", pid(one), limits=ONE_THREAD)

    assert said.status == 1
    assert "no thread for it: " in said.err
    assert driver(one).asked == []


def test_a_batch_without_threads_has_no_driver(one: Ground) -> None:
    """A driver that cannot be initialised is reported with the reason, and nothing was done."""
    said = one.run("--batch", "freeze", "--pids", pid(one), limits=NO_THREADS)

    assert '"text":"no thread could be started for the driver"' in said.out
    assert driver(one).asked == []


def test_a_batch_reports_of_each_call_without_a_thread(one: Ground) -> None:
    """A process that was not asked is reported with the reason, neither late nor gone."""
    said = one.run("--batch", "freeze", "--pids", pid(one), limits=ONE_THREAD)

    (move,) = (
        line for line in map(json.loads, said.out.splitlines()) if line.get("step") == "state"
    )
    assert (move["ok"], move["late"], move["gone"]) == (False, False, False)
    assert move["text"].startswith("no thread for it: ")
    assert driver(one).asked == []


def test_the_device_map_reaches_the_driver(one: Ground) -> None:
    """Each pair of UUIDs, byte for byte."""
    driver(one).state = "checkpointed"
    pairs = f"{OLD_GPU}={NEW_GPU},{NEW_GPU}={OLD_GPU}"

    said = one.run("--action", "restore", "--pid", pid(one), "--device-map", pairs)

    assert said.status == 0
    assert f"restore map={pairs}" in driver(one).asked


@pytest.mark.parametrize(
    "text", ("", "x", OLD_GPU, f"{OLD_GPU}=", f"{OLD_GPU}={NEW_GPU},", f"{OLD_GPU}={NEW_GPU}0")
)
def test_a_device_map_that_is_none(one: Ground, text: str) -> None:
    """It is refused before the driver is asked."""
    said = one.run("--action", "restore", "--pid", pid(one), "--device-map", text)

    assert said.status == 1
    assert "device map" in said.err
    assert driver(one).asked == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ((), "a --pid is needed"),
        (("--toggle",), "a --pid is needed"),
        (("--toggle", "--pid", "x"), "a --pid is needed"),
        (("--toggle", "--pid", "-1"), "a --pid is needed"),
        (("--toggle", "--pid", "99999999999999999999"), "a --pid is needed"),
        (("--pid", "1"), "an action is needed"),
        (("--action", "dance", "--pid", "1"), "an action is needed"),
        (("--action",), "option '--action' requires an argument"),
        (("--dance",), "unrecognized option '--dance'"),
        (("--timeout", "x", "--pid", "1"), "'x' is no number of milliseconds"),
        (("--batch", "dance"), "there is no batch 'dance'"),
        (("--batch", "freeze"), "--pids are needed"),
        (("--batch", "freeze", "--pids", "1,,2"), "is no list of at most 256"),
        (("--batch", "freeze", "--pids", ",".join(["1"] * 257)), "is no list of at most 256"),
    ),
)
def test_a_wrong_command_line(one: Ground, arguments: tuple[str, ...], words: str) -> None:
    """It is status 1, what is wrong, and the help."""
    said = one.run(*arguments)

    assert said.status == 1
    assert words in said.err
    assert "--get-restore-tid" in said.err
    assert said.out == ""


def test_what_is_said_is_bounded(one: Ground) -> None:
    """An argument of any length makes a message of a few lines."""
    said = one.run("--" + "x" * 100_000)

    assert said.status == 1
    assert len(said.err) < 4096


def test_help(one: Ground) -> None:
    """The help is on standard output, with status 0."""
    said = one.run("--help")

    assert said.status == 0
    assert "--device-map" in said.out


def test_no_driver_library(one: Ground) -> None:
    """A container without libcuda.so.1: the status is that of a program that did not run."""
    one.environment["LD_LIBRARY_PATH"] = "/nonexistent"

    said = one.run("--get-state", "--pid", pid(one))

    assert said.status == 127
    assert "libcuda.so.1" in said.err


def test_a_driver_that_does_not_begin(one: Ground) -> None:
    """It is distinguished from a process that has no CUDA state."""
    one.environment["CRYO_SIMGPU_NODE"] = "/nonexistent"

    said = one.run("--get-state", "--pid", pid(one))

    assert said.status == 126
    assert said.err == "cryo-cuda: no CUDA-capable device is detected\n"


def test_a_driver_that_hangs_at_its_beginning(one: Ground) -> None:
    """The deadline of a look holds for the start of the driver too."""
    one.faults(Fault(action="init", kind=Kind.HANG))

    assert one.run("--get-state", "--pid", pid(one), "--detect-ms", "200").status == 126


def test_old_containers_can_run_it() -> None:
    """It asks for no symbol that is newer than what the wheel's tag promises."""
    if reason := missing():
        excuse(reason)
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", Path(native.path()).read_bytes())

    assert found
    assert max((int(major), int(minor)) for major, minor in found) <= NEWEST_GLIBC
