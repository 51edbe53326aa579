"""Programs that the sentry starts for us, with a sentry that answers as the real one does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import DeadlineExceeded, NotFound, Unavailable
from shim.runsc.client import Runsc
from shim.runsc.exec_request import exec_request
from shim.runsc.guest import ContainerGuest
from tests.unit.fakes_runsc import Script, client, known
from tests.unit.fakes_sentry import Answer, FakeSentry, Hangup, Refusal

START = "containerManager.ExecuteAsync"
WAIT = "containerManager.WaitPID"
PID = 33
STATE: dict[str, Any] = {
    "id": "a+",
    "status": "running",
    "spec": {
        "process": {
            "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
            "args": ["/bin/app"],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/srv",
            "noNewPrivileges": True,
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_NET_RAW"],
                "effective": ["CAP_KILL"],
                "permitted": ["CAP_CHOWN"],
                "inheritable": None,
            },
        },
    },
}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Give a runsc that is a script, and answers an exec."""
    made = Script(tmp_path)
    made.prints("exec", out="by command")
    return made


@pytest.fixture
def runsc(script: Script) -> Runsc:
    """Give a client of it that knows a running container."""
    made = client(script)
    known(made, "a").write_text(json.dumps(STATE))
    return made


@pytest.fixture
def guest(runsc: Runsc, tmp_path: Path) -> ContainerGuest:
    """Give the inside of the container."""
    (tmp_path / "scratch").mkdir()
    return ContainerGuest(runsc, "a", tmp_path / "scratch")


@pytest.fixture
def sentry(runsc: Runsc) -> Iterator[Callable[..., FakeSentry]]:
    """Give a function that starts the container's sentry."""
    made: list[FakeSentry] = []

    def start(begin: Answer, wait: Answer = lambda _argument, _fds: 0) -> FakeSentry:
        path = runsc.containers.root / "runsc-a+.sock"
        made.append(FakeSentry(path, {START: begin, WAIT: wait}))
        return made[-1]

    yield start
    for each in made:
        each.close()


Start = Callable[..., FakeSentry]


def program(_argument: object, fds: list[int]) -> int:
    """Start a program that writes to its streams."""
    assert os.read(fds[0], 1) == b""
    os.write(fds[1], b"out")
    os.write(fds[2], b"err")
    return PID


def words(script: Script) -> list[str]:
    """List the runsc commands."""
    return [next(word for word in call if not word.startswith("--")) for call in script.calls]


async def test_a_program(script: Script, guest: ContainerGuest, sentry: Start) -> None:
    """It gets what the container's own process has, and no runsc command runs."""
    served = sentry(program, lambda _argument, _fds: 3 << 8)

    done = await guest.run(["tool", "-x"], timeout_s=5)

    assert (done.status, done.stdout, done.stderr) == (3, b"out", b"err")
    assert script.calls == []
    (start, request), wait = served.requests
    assert start == START
    assert request == {
        "argv": ["tool", "-x"],
        "envv": ["PATH=/bin", "A=b"],
        "wd": "/srv",
        "KUID": 7,
        "KGID": 8,
        "ExtraKGIDs": [9],
        "NoNewPrivileges": True,
        "Capabilities": {
            "PermittedCaps": 1 << 0,
            "InheritableCaps": 0,
            "EffectiveCaps": 1 << 5,
            "BoundingCaps": 1 << 5,
            "AmbientCaps": 0,
        },
        "SupportTTYs": True,
        "GuestFDs": [0, 1, 2],
        "ContainerID": "a+",
    }
    assert wait == (WAIT, {"PID": PID, "CID": "a+"})


async def test_a_signal_is_a_status(guest: ContainerGuest, sentry: Start) -> None:
    """As a shell and `runsc exec` give it."""
    sentry(program, lambda _argument, _fds: int(signal.SIGKILL))
    assert (await guest.run(["tool"], timeout_s=5)).status == 128 + signal.SIGKILL


def test_net_raw_stays_where_runsc_leaves_it() -> None:
    """As --net-raw does."""
    state = json.dumps(STATE).encode()
    request = exec_request(state, ["tool"], as_user=True, net_raw=True)
    assert request is not None
    assert request["Capabilities"]["BoundingCaps"] == 1 << 5 | 1 << 13


def test_a_user_is_left_to_a_runsc_that_takes_root() -> None:
    """A program of another user could do less or more."""
    state = json.dumps(STATE).encode()
    assert exec_request(state, ["tool"], as_user=False, net_raw=False) is None
    root = changed(lambda state: state["spec"]["process"].update(user={"uid": 0, "gid": 0}))
    request = exec_request(root, ["tool"], as_user=False, net_raw=False)
    assert request is not None
    assert (request["KUID"], request["KGID"]) == (0, 0)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the state file after a change."""
    state = json.loads(json.dumps(STATE))
    change(state)
    return json.dumps(state).encode()


UNUSUAL = {
    "empty": b"",
    "truncated": json.dumps(STATE).encode()[:-9],
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "paused": changed(lambda state: state.update(status="paused")),
    "status": changed(lambda state: state.update(status=2)),
    "no process": changed(lambda state: state["spec"].pop("process")),
    "capability": changed(
        lambda state: state["spec"]["process"]["capabilities"].update(bounding=["CAP_NEW"])
    ),
}


@pytest.mark.parametrize("state", UNUSUAL.values(), ids=UNUSUAL)
async def test_what_is_unknown_here_is_left_to_runsc(
    script: Script, runsc: Runsc, guest: ContainerGuest, sentry: Start, state: bytes
) -> None:
    """It knows the form of its own state file, and reports why a container runs nothing."""
    served = sentry(program)
    known(runsc, "a").write_bytes(state)

    assert (await guest.run(["tool"], timeout_s=5)).stdout == b"by command"
    assert (served.requests, words(script)) == ([], ["exec"])


def refuse(why: str) -> Answer:
    """Answer with an error."""

    def answer(_argument: object, _fds: list[int]) -> object:
        raise Refusal(why)

    return answer


async def test_what_the_sentry_refuses_is_left_to_runsc(
    script: Script, guest: ContainerGuest, sentry: Start
) -> None:
    """An unknown method, or a container that has exited: nothing was started."""
    sentry(refuse("unknown method"))
    assert (await guest.run(["tool"], timeout_s=5)).stdout == b"by command"
    assert words(script) == ["exec"]


async def test_no_sentry_is_left_to_runsc(script: Script, guest: ContainerGuest) -> None:
    """Its error is the canonical one."""
    assert (await guest.run(["tool"], timeout_s=5)).stdout == b"by command"
    assert words(script) == ["exec"]


@pytest.mark.parametrize(
    "why",
    (
        "failed to load /x: no such file or directory",
        'error finding executable "x" in PATH [/bin]: no such file or directory',
    ),
)
async def test_no_such_program(
    script: Script, guest: ContainerGuest, sentry: Start, why: str
) -> None:
    """An image without the program is distinguished from a program that fails."""
    sentry(refuse(why))
    with pytest.raises(NotFound, match="no program x"):
        await guest.run(["x"], timeout_s=5)
    assert script.calls == []


def hang_up(_argument: object, _fds: list[int]) -> object:
    """Close the connection."""
    raise Hangup


@pytest.mark.parametrize(
    ("begin", "wait"),
    (
        (hang_up, program),
        (program, hang_up),
        (lambda _argument, _fds: "33", program),
        (lambda _argument, _fds: -1, program),
        (program, lambda _argument, _fds: "0"),
        (program, lambda _argument, _fds: -1),
        (program, lambda _argument, _fds: 0x137F),
    ),
    ids=("start", "wait", "text", "negative", "text of wait", "negative of wait", "stopped"),
)
async def test_a_program_that_may_have_started_is_not_started_twice(
    script: Script, guest: ContainerGuest, sentry: Start, begin: Answer, wait: Answer
) -> None:
    """A second one would move a process again."""
    sentry(begin, wait)
    with pytest.raises(Unavailable):
        await guest.run(["tool"], timeout_s=5)
    assert "exec" not in words(script)


class Hanging:
    """A call that is answered when the test says so."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.go = threading.Event()

    def __call__(self, _argument: object, _fds: list[int]) -> int:
        """Wait for the test."""
        self.called.set()
        assert self.go.wait(10)
        return PID


def kills(script: Script) -> list[list[str]]:
    """List the kills, without the root."""
    calls = [[word for word in call if not word.startswith("--root=")] for call in script.calls]
    return [call for call in calls if call[0] == "kill"]


KILLED = [["kill", f"--pid={PID}", "a+", "9"]]


async def test_a_program_that_hangs_is_killed(
    script: Script, guest: ContainerGuest, sentry: Start
) -> None:
    """Nothing else would end it."""
    waits = Hanging()
    sentry(program, waits)
    try:
        with pytest.raises(DeadlineExceeded, match=r"tool did not exit in 0\.3 s"):
            await guest.run(["tool"], timeout_s=0.3)
    finally:
        waits.go.set()
    assert kills(script) == KILLED


@pytest.mark.parametrize("begun", (True, False))
async def test_a_program_whose_caller_leaves_is_killed(
    script: Script, guest: ContainerGuest, sentry: Start, *, begun: bool
) -> None:
    """Also one that the sentry only starts then: it would move a process after the rollback."""
    begins, waits = Hanging(), Hanging()
    sentry(program if begun else begins, waits)
    work = asyncio.create_task(guest.run(["tool"], timeout_s=60))
    await asyncio.to_thread((waits if begun else begins).called.wait, 10)

    work.cancel()
    await asyncio.sleep(0)
    begins.go.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    waits.go.set()

    assert kills(script) == KILLED


async def test_no_descriptor_is_left(guest: ContainerGuest, sentry: Start) -> None:
    """Neither of a program that ran nor of one that did not."""
    folder = Path("/proc/self/fd")
    sentry(program, hang_up)
    before = len(list(folder.iterdir()))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await guest.run(["tool"], timeout_s=5)
    async with asyncio.timeout(5):
        while len(list(folder.iterdir())) > before:  # noqa: ASYNC110 - transports close later
            await asyncio.sleep(0)


async def test_output_is_bounded(guest: ContainerGuest, sentry: Start) -> None:
    """A program that never stops writing does not fill the memory, nor does it block."""

    def chatty(_argument: object, fds: list[int]) -> int:
        left = 5 << 20
        while left > 0:
            left -= os.write(fds[1], bytes(min(left, 1 << 16)))
        return PID

    sentry(chatty)
    assert len((await guest.run(["tool"], timeout_s=20)).stdout) == 1 << 20
