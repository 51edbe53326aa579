"""Whether the sentry stands still, by its stacks, and how runsc is reconciled with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, Self

import pytest

from shim.errors import DeadlineExceeded, RunscError, Unavailable
from shim.runsc import kernel
from shim.runsc.client import Runsc
from shim.runsc.kernel import read
from tests.unit.fakes_runsc import Script, client, known

K = "gvisor.dev/gvisor/pkg/sentry/kernel."
RUNS = (
    f"goroutine 7 [syscall]:\n{K}(*Task).block(0x1)\n\tf.go:1\n{K}(*Task).run(0x1, 0x2)\n\tf.go:2"
)
STANDS = (
    f"goroutine 8 [wait]:\n{K}(*Task).doStop(0x1)\n\tf.go:1\n{K}(*Task).run(0x1, 0x3)\n\tf.go:2"
)
SERVES = "gvisor.dev/gvisor/pkg/urpc.(*Server).handleOne(0x1)"
ASKED = f"goroutine 1 [running]:\ngvisor.dev/gvisor/runsc/boot.(*debug).Stacks(0x1)\n{SERVES}"
WAITS = f"goroutine 2 [wait]:\nrunsc/boot.(*containerManager).Wait(0x1)\n{SERVES}"
SIGNALS = f"goroutine 3 [running]:\nsentry/control.(*Lifecycle).SignalContainer(0x1)\n{SERVES}"
SAVES = "goroutine 4 [running]:\ngvisor.dev/gvisor/runsc/boot.(*Loader).save(0x1)"
OTHER = "goroutine 5 [select]:\nmain.main()"


def stacks(*blocks: str) -> str:
    """Put goroutines together as the sentry prints them."""
    return "\n\n".join([ASKED, OTHER, *blocks]) + "\n"


@pytest.mark.parametrize(
    ("blocks", "paused"),
    (
        ((STANDS, STANDS), True),
        ((STANDS, WAITS), True),
        ((STANDS, RUNS), False),
        ((RUNS,), False),
        ((), False),
        ((STANDS, SIGNALS), None),
        ((STANDS, SAVES), None),
    ),
)
def test_what_the_stacks_say(blocks: tuple[str, ...], paused: bool | None) -> None:
    """All tasks stopped is paused; while a call or a save is under way it may change."""
    assert read(stacks(*blocks)) is paused


class Sentry:
    """Answers the control socket of container `a`: with its stacks, and to pause and resume."""

    def __init__(self, path: Path, *looks: str) -> None:
        self.asked: list[str] = []
        self._path = path
        self._looks = list(looks)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: dict[str, Any] = json.loads(await reader.read(1 << 16))
        writer.write(json.dumps({"success": True, "result": self._answer(request)}).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _answer(self, request: dict[str, Any]) -> str:
        if request["method"] == "debug.Stacks":
            return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        self.asked.append(request["method"].partition(".")[2])
        return ""


@pytest.fixture
def runsc(tmp_path: Path) -> Runsc:
    """Give a client of a runsc that knows container `a`."""
    made = client(Script(tmp_path))
    known(made, "a")
    return made


def says(runsc: Runsc, status: str) -> Script:
    """Let `runsc state` say so."""
    script = Script(Path(runsc.capabilities.binary).parent)
    script.prints("state", out=json.dumps({"status": status}))
    return script


def socket(runsc: Runsc) -> Path:
    """Name the control socket of container `a`'s sandbox."""
    [state] = runsc.containers.root.glob("a+_sandbox:*.state")
    return runsc.containers.root / f"runsc-{state.stem.partition('_sandbox:')[2]}.sock"


@pytest.mark.parametrize(
    ("said", "block", "done"),
    (
        ("running", STANDS, ["Resume"]),
        ("paused", RUNS, ["Pause"]),
        ("running", RUNS, []),
        ("paused", STANDS, []),
        ("created", STANDS, []),
        ("stopped", STANDS, []),
    ),
)
async def test_runscs_word_is_made_true(
    runsc: Runsc, said: str, block: str, done: list[str]
) -> None:
    """Only where they differ is anything done, for the sentry counts."""
    says(runsc, said)

    async with Sentry(socket(runsc), stacks(block)) as sentry:
        await runsc.sentry.reconcile_pause("a")

    assert sentry.asked == done


async def test_one_look_is_not_enough(runsc: Runsc) -> None:
    """A signal that is sent stops everything for a moment; that is no pause."""
    says(runsc, "running")

    async with Sentry(socket(runsc), stacks(STANDS), stacks(RUNS)) as sentry:
        await runsc.sentry.reconcile_pause("a")

    assert sentry.asked == []


async def test_a_save_is_waited_for(runsc: Runsc) -> None:
    """Its pause is its own."""
    says(runsc, "running")

    async with Sentry(socket(runsc), stacks(STANDS, SAVES), stacks(STANDS)) as sentry:
        await runsc.sentry.reconcile_pause("a")

    assert sentry.asked == ["Resume"]


async def test_a_sentry_that_is_at_something_for_ever(runsc: Runsc) -> None:
    """Then nothing is known, and nothing done."""
    async with Sentry(socket(runsc), stacks(STANDS, SAVES)):
        with pytest.raises(Unavailable, match="was busy"):
            await kernel.is_paused(socket(runsc), timeout_s=0.3)


async def test_another_container_is_paused(runsc: Runsc) -> None:
    """The kernel is that of the whole pod, so it stands still for the other one."""
    known(runsc, "b")
    [own] = runsc.containers.root.glob("a+_sandbox:*.state")
    [other] = runsc.containers.root.glob("b+_sandbox:*.state")
    other.rename(own.with_name(own.name.replace("a+_", "b+_", 1)))
    script = says(runsc, "running")
    script.on("b+", """printf '{"status": "paused"}'; exit 0""")
    script.on("state", """[ "$3" = b+ ] || { printf '{"status": "running"}'; exit 0; }""")

    async with Sentry(socket(runsc), stacks(STANDS)) as sentry:
        await runsc.sentry.reconcile_pause("a")

    assert sentry.asked == []


@pytest.mark.parametrize("command", ("pause", "resume"))
async def test_a_command_that_breaks_off(runsc: Runsc, command: str) -> None:
    """What it has left is put right before its caller gets the error."""
    script = says(runsc, "running")
    script.on(command, "kill -9 $$")

    async with Sentry(socket(runsc), stacks(STANDS)) as sentry:
        with pytest.raises(Exception, match=f"runsc {command}"):
            await getattr(runsc, command)("a")

    assert sentry.asked == ["Resume"]


@pytest.mark.parametrize("left", ("", "x", '{"a":'), ids=("nothing", "noise", "half"))
async def test_a_state_file_that_was_cut_off(runsc: Runsc, left: str) -> None:
    """Killed while it writes its file, runsc could not use it again; so it is put back."""
    [path] = runsc.containers.root.glob("a+_sandbox:*.state")
    path.write_text('{"status": 2}')
    path.chmod(0o640)
    script = says(runsc, "running")
    script.on("pause", f"printf %s '{left}' >'{path}'; kill -9 $$")

    with pytest.raises(RunscError):
        await runsc.pause("a")

    assert path.read_text() == '{"status": 2}'
    assert path.stat().st_mode & 0o777 == 0o640
    assert [*runsc.containers.root.iterdir()] == [path]


async def test_a_state_file_that_is_whole(runsc: Runsc) -> None:
    """What runsc has written to its end stays."""
    [path] = runsc.containers.root.glob("a+_sandbox:*.state")
    path.write_text('{"status": 2}')
    says(runsc, "paused").on("pause", f"printf %s '{{}}' >'{path}'; kill -9 $$")

    with pytest.raises(RunscError):
        await runsc.pause("a")

    assert path.read_text() == "{}"


async def test_a_sentry_that_does_not_answer(runsc: Runsc) -> None:
    """The error is about the command, not about that."""
    says(runsc, "running").on("pause", "exec sleep 1000")

    with pytest.raises((DeadlineExceeded, asyncio.TimeoutError)):
        async with asyncio.timeout(0.5):
            await runsc.pause("a")
