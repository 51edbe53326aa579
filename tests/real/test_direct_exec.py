"""Programs that are started by calls to the sentry, beside the same by `runsc exec`."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from shim.config import Config
from shim.errors import DeadlineExceeded, NotFound, Unavailable
from shim.runsc.client import Runsc
from shim.runsc.direct_exec import DirectExec
from shim.runsc.open_streams import OpenStreams
from shim.runsc.run import Completed
from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import WAIT_S, Rig
from tests.unit.fakes_runsc import FakeSupervisor, capabilities

pytestmark = [pytest.mark.timeout(180), pytest.mark.every_combination]

LIMIT_S = 30.0
# What a program can see of how it was started; `read` and `echo` are the shell's own.
SURROUNDINGS = """
while read -r name value; do case $name in
Uid:|Gid:|Groups:|Cap*|NoNewPrivs:|Seccomp:|Umask:) echo "$name $value";; esac
done </proc/self/status
env | sort; pwd; ulimit -a; umask; tty
for fd in 0 1 2 3 4; do [ -e /proc/self/fd/$fd ] && echo $fd; done
cat /proc/self/cgroup
"""
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]
PROCESSES: dict[str, dict[str, Any]] = {
    "root": {},
    "user": {
        "user": {"uid": 1234, "gid": 5, "additionalGids": [7, 8]},
        "env": ["PATH=/usr/bin:/bin", "MINE=a b", "HOME=/tmp"],
        "cwd": "/tmp",
        "noNewPrivileges": True,
    },
    "some capabilities": {
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES[:2],
            "permitted": CAPABILITIES[:3],
            "inheritable": CAPABILITIES[:1],
            "ambient": [],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 500, "soft": 400}],
    },
    "no capabilities": {"capabilities": {}},
}


@pytest.fixture
def direct(rig: Rig) -> DirectExec:
    """Give the calls for container `job`."""
    config = Config()
    config.runsc.flags.update(rig.sim.flags)
    root = rig.sim.folder / "state" / "runsc" / "default"
    abilities = capabilities(rig.build.path, new=rig.build.name == "new")
    runsc = Runsc(config, abilities, root, FakeSupervisor(), OpenStreams())
    return DirectExec(runsc, "job")


def run(direct: DirectExec, *argv: str, timeout_s: float = LIMIT_S) -> Completed:
    """Run a program; it must not need `runsc exec`."""
    done = asyncio.run(direct.run(argv, timeout_s=timeout_s))
    assert done is not None
    return done


@pytest.mark.parametrize("process", PROCESSES)
def test_a_program_has_the_same_surroundings(rig: Rig, direct: DirectExec, process: str) -> None:
    """Whichever way it was started."""
    rig.program("job", "/bin/sleep", "1000", **PROCESSES[process])
    argv = ("/bin/sh", "-c", SURROUNDINGS)

    done = asyncio.run(direct.run(argv, timeout_s=LIMIT_S))

    by_command = rig.behind.exec("job", argv)
    if rig.build.name == "old" and process == "user":
        assert "Uid: 0\t" in by_command.out
        assert done is None
        return
    assert done is not None
    assert "CapEff:" in by_command.out
    assert done.stdout.decode().splitlines() == by_command.out.splitlines()
    assert (done.stderr.decode(), done.status) == (by_command.err, by_command.status)


@pytest.mark.parametrize("script", ("exit 0", "exit 3", "exit 128", "kill -9 $$", "kill -15 $$"))
def test_the_status_is_the_same(rig: Rig, direct: DirectExec, script: str) -> None:
    """For an exit and for a signal."""
    rig.sleeper("job")
    argv = ("/bin/sh", "-c", script)
    assert run(direct, *argv).status == rig.behind.exec("job", argv).status


@pytest.mark.parametrize("program", ("/no/such", "no-such", "/usr"))
def test_no_such_program(rig: Rig, direct: DirectExec, program: str) -> None:
    """It is not a program that fails."""
    rig.sleeper("job")
    with pytest.raises(NotFound, match=f"no program {program}"):
        run(direct, program)


def test_a_program_that_hangs_is_killed(rig: Rig, direct: DirectExec) -> None:
    """It is not left in the container."""
    rig.sleeper("job")
    with pytest.raises(DeadlineExceeded):
        run(direct, "/bin/sleep", "1001", timeout_s=0.5)
    wait_until(lambda: len(rig.client.pids("job")) == 1, "the end of the program", WAIT_S)


def test_a_paused_container_runs_nothing(rig: Rig, direct: DirectExec) -> None:
    """That is left to runsc, which says why."""
    rig.sleeper("job")
    rig.client.pause("job")
    assert asyncio.run(direct.run(["/bin/true"], timeout_s=LIMIT_S)) is None
    rig.client.resume("job")
    assert run(direct, "/bin/true").status == 0


def test_the_sandbox_exits(rig: Rig, direct: DirectExec) -> None:
    """The caller does not wait for its deadline."""
    sandbox = rig.sleeper("job")

    async def killed() -> None:
        work = asyncio.ensure_future(direct.run(["/bin/sleep", "1001"], timeout_s=600))
        await asyncio.to_thread(
            wait_until, lambda: len(rig.client.pids("job")) > 1, "the program", WAIT_S
        )
        os.kill(sandbox, signal.SIGKILL)
        await work

    with pytest.raises(Unavailable):
        asyncio.run(killed())
