"""Programs inside a container: their deadline holds inside too. Runsc is a shell script."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from pathlib import Path

import pytest

from shim.errors import CryoError, DeadlineExceeded, NotFound, RunscError, Unavailable
from shim.host import files
from shim.runsc.command_exec import _PidFile
from shim.runsc.guest import ContainerGuest
from tests.unit.fakes_runsc import Script, client, known

PS = "UID PID PPID C TTY STIME TIME CMD\n0 33 0 0 ? 18:49 0s tool\n"
# Writes the program's number where `--internal-pid-file` says, and then hangs.
HANGS = 'echo 33 >"${3#--internal-pid-file=}"; exec sleep 1000'


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Give a runsc that is a script."""
    return Script(tmp_path)


@pytest.fixture
def guest(script: Script, tmp_path: Path) -> ContainerGuest:
    """Give the inside of container `a`, with a folder of its own for its files."""
    runsc = client(script)
    known(runsc, "a")
    (tmp_path / "scratch").mkdir()
    return ContainerGuest(runsc, "a", tmp_path / "scratch")


def commands(script: Script) -> list[list[str]]:
    """Give the calls without root and pid file."""
    return [
        [word for word in call if not word.startswith(("--root=", "--internal-pid-file="))]
        for call in script.calls
    ]


async def test_any_status_is_an_answer(script: Script, guest: ContainerGuest) -> None:
    """What the program says and how it ended."""
    script.prints("exec", out="o", err="no\n", status=1)

    done = await guest.run(["/bin/tool", "-x"], timeout_s=5)

    assert (done.status, done.stdout, done.stderr) == (1, b"o", b"no\n")
    assert commands(script) == [["exec", "a+", "/bin/tool", "-x"]]


WHY = "executing processes for container: "
NO_PROCESS = (
    'executing command "/x" in sandbox: failed to load /x: no such file or directory',
    'executing command "x" in sandbox: error finding executable "x" in PATH [/bin]: no such file',
    'executing command "/usr" in sandbox: failed to load /usr: permission denied',
)


@pytest.mark.parametrize("text", NO_PROCESS)
async def test_no_such_program(script: Script, guest: ContainerGuest, text: str) -> None:
    """An image without the program is distinguished from a program that fails."""
    script.prints("exec", err=f"{WHY}{text}\n", status=128)

    with pytest.raises(NotFound, match="no program x"):
        await guest.run(["x"], timeout_s=5)


@pytest.mark.parametrize(
    ("text", "kind"),
    (
        (f'{WHY}cannot execute in container "a+" in state paused\n', RunscError),
        (f"{WHY}connecting to control server at PID 5: connection refused\n", Unavailable),
        ("loading container: file does not exist\n", NotFound),
        ("FetchSpec failed: loading container: file does not exist\n", NotFound),
    ),
)
async def test_runscs_own_failure_is_no_answer_of_the_program(
    script: Script, guest: ContainerGuest, text: str, kind: type[CryoError]
) -> None:
    """Else `get-state` would seem to say that a process has no CUDA state."""
    script.prints("exec", err=text, status=128)

    with pytest.raises(kind, match="runsc exec"):
        await guest.run(["x"], timeout_s=5)


@pytest.mark.parametrize("text", ("failed to load model\n", "error finding executable \n", ""))
async def test_a_program_may_end_as_runsc_does(
    script: Script, guest: ContainerGuest, text: str
) -> None:
    """Status 128 and the same words, but not as runsc begins its lines: it is an answer."""
    script.prints("exec", err=text, status=128)

    assert (await guest.run(["x"], timeout_s=5)).status == 128


async def test_a_program_that_hangs_is_killed_inside(
    script: Script, guest: ContainerGuest, tmp_path: Path
) -> None:
    """Killing `runsc exec` leaves the program behind, so it is ended by its own number."""
    script.on("exec", HANGS)

    with pytest.raises(DeadlineExceeded):
        await guest.run(["tool"], timeout_s=0.3)

    assert commands(script)[1:] == [["kill", "--pid=33", "a+", "9"]]
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_program_whose_caller_leaves_is_killed_inside(
    script: Script, guest: ContainerGuest, tmp_path: Path
) -> None:
    """A tool that goes on would move a process after the rollback has; so its number is awaited."""
    script.on("exec", f"sleep 0.3; {HANGS}")
    work = asyncio.create_task(guest.run(["tool"], timeout_s=60))
    await asyncio.sleep(0)

    work.cancel()
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert commands(script)[1:] == [["kill", "--pid=33", "a+", "9"]]
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_one_that_had_no_number_yet_is_not_killed(
    script: Script, guest: ContainerGuest
) -> None:
    """Without a number there is no process to end, and no other process is hit."""
    script.on("exec", "exec sleep 1000")

    with pytest.raises(DeadlineExceeded):
        await guest.run(["tool"], timeout_s=0.1)

    assert [call[0] for call in commands(script)] == ["exec"]


# `runsc exec` and the program part when runsc is killed, or finds no room for the program's number.
KILLED = 'echo 33 >"${3#--internal-pid-file=}"; kill -9 $$'
NO_ROOM = "echo writing internal pid file: no space left on device >&2; exit 128"
# What `runsc ps` says for the first three times; after that there is no process.
THREE_TIMES = f"""
    echo >>"$0.looks"
    [ "$(wc -l <"$0.looks")" -gt 3 ] && set -- none
    [ "$1" = none ] && echo "UID PID PPID C TTY STIME TIME CMD" || printf %s "{PS}"
    exit 0
"""


@pytest.mark.parametrize("end", (KILLED, NO_ROOM), ids=("killed", "no room"))
async def test_a_program_that_outlives_its_exec_is_waited_for(
    script: Script, guest: ContainerGuest, end: str
) -> None:
    """Who goes on before it has exited moves a process while it does, too."""
    script.on("exec", end)
    script.on("ps", THREE_TIMES)

    done = await guest.run(["/bin/tool"], timeout_s=60)

    assert done.status in (-9, 128)
    assert [call[0] for call in commands(script)] == ["exec", *["ps"] * 4]


async def test_one_that_outlives_its_exec_too_long_is_killed(
    script: Script, guest: ContainerGuest
) -> None:
    """It has the time that it was given, and no more."""
    script.on("exec", KILLED)
    script.prints("ps", out=PS)

    await guest.run(["/bin/tool"], timeout_s=0.2)

    assert commands(script)[-1] == ["kill", "--pid=33", "a+", "9"]


async def test_one_whose_number_is_not_known_is_not_killed(
    script: Script, guest: ContainerGuest
) -> None:
    """It may be somebody else's of that name; so the caller learns that something goes on."""
    script.on("exec", NO_ROOM)
    script.prints("ps", out=PS)

    with pytest.raises(DeadlineExceeded, match="/bin/tool still runs"):
        await guest.run(["/bin/tool"], timeout_s=0.2)

    assert "kill" not in [call[0] for call in commands(script)]


async def test_one_that_outlives_its_exec_ends_with_its_caller(
    script: Script, guest: ContainerGuest
) -> None:
    """A caller that is cancelled while it waits leaves no process behind."""
    script.on("exec", KILLED)
    script.prints("ps", out=PS)
    work = asyncio.create_task(guest.run(["/bin/tool"], timeout_s=60))
    while "ps" not in [call[0] for call in commands(script)]:  # noqa: ASYNC110 - the script writes it
        await asyncio.sleep(0.01)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert ["kill", "--pid=33", "a+", "9"] in commands(script)


async def test_ending_one_that_is_gone(script: Script, guest: ContainerGuest) -> None:
    """Gone is what was wanted."""
    script.prints("kill", err="no such process with PID 77\n", status=128)
    script.prints("ps", out=PS)

    await guest.end(77)

    with pytest.raises(CryoError, match="runsc kill"):
        await guest.end(33)


async def test_settling_pauses_and_resumes(script: Script, guest: ContainerGuest) -> None:
    """The sentry does what it owes at the next resume."""
    await guest.settle()

    assert commands(script) == [["state", "a+"], ["pause", "a+"], ["resume", "a+"]]


# -- by whose numbers ----------------------------------------------------------------------------


async def test_alone_a_container_counts_as_its_sandbox(
    script: Script, guest: ContainerGuest
) -> None:
    """What `ps` lists is there, and nothing is run to find out."""
    script.prints("ps", out=PS)

    assert await guest.has(33)
    assert not await guest.has(34)
    assert {call[0] for call in commands(script)} == {"ps"}


async def test_a_member_counts_by_itself(script: Script, tmp_path: Path) -> None:
    """The numbers of `ps` are the sandbox's: a member is asked inside, unless it is gone."""
    runsc = client(script)
    known(runsc, "a")
    member = ContainerGuest(runsc, "a", tmp_path, member=True)
    script.prints("ps", out=PS)
    script.prints("exec", status=1)

    assert not await member.has(33)
    assert commands(script)[-1][-1] == "33"
    script.prints("exec", status=0)
    assert await member.has(2)
    script.prints("exec", err=WHY + NO_PROCESS[0], status=128)
    assert await member.has(2)
    script.prints("ps", out=PS.splitlines()[0])
    assert not await member.has(2)


def test_a_pid_file_lies_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where our own folder is full, no link that waits in /tmp can have runsc write through it."""
    monkeypatch.setattr(files, "free_bytes", lambda _path: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with _PidFile(tmp_path / "full") as pid_file:
        folder = pid_file.path.parent
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        pid_file.path.write_text("33")
        assert pid_file.read() == 33

    assert not folder.exists()
