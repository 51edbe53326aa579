"""Runs the hooks of a sandbox's containers around a freeze, and after a restore."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from shim import failpoints
from shim.errors import CryoError, DeadlineExceeded, HookFailed
from shim.host import http
from shim.host.text import printable
from shim.model import Phase, Progress, Report
from shim.oci.app_hooks import PREFIX, AppHookKind, Command, Url
from shim.runsc.run import Completed
from shim.transaction.hook_calls import HookCall, HookCalls
from shim.transaction.target import CheckpointTarget

_OUTPUT_MAX = 500
_SLACK_S = 10.0
# How long it may take to kill a program that is late.
_KILL_S = 120.0
_REMEDY = "correct the hook, or what it calls"

Step = Callable[[Phase], contextlib.AbstractContextManager[None]]
"""Records, reports and times a phase."""


class HookRunner:
    """Runs the hooks of one sandbox.

    A checkpoint of a parked task runs none: its park did, and its resume will.
    """

    def __init__(self, target: CheckpointTarget, report: Report, step: Step | None = None) -> None:
        """Take the sandbox; `step` records the phases of the transaction that runs the hooks."""
        self._target = target
        self._report = report
        self._step = step or self._report_step
        self._calls = HookCalls(target)

    @contextlib.contextmanager
    def _report_step(self, phase: Phase) -> Iterator[None]:
        self._report(Progress(phase=phase))
        yield

    @property
    def limit_s(self) -> float:
        """Return how long the hooks of one kind may take together, with a reserve."""
        return _SLACK_S + sum(timeout_s + _KILL_S for timeout_s in self._calls.timeouts_s)

    # -- around a freeze -----------------------------------------------------------------------

    async def before_freeze(self) -> list[str]:
        """Run the pre-freeze hooks, and return warnings; then `after_thaw` is to be called.

        Raises:
            CryoError: one failed, which the message names with its output.
        """
        parked = self._target.journal.entry.from_park
        if parked or not self._calls.has(AppHookKind.PRE_FREEZE, AppHookKind.POST_THAW):
            return []
        if self._target.paused_ids:
            return ["the task is paused, so its hooks are not run"]
        calls = self._calls.of(AppHookKind.PRE_FREEZE)
        self._calls.of(AppHookKind.POST_THAW)  # their mistakes are reported before any hook runs
        self._target.journal.note(hooked=True)
        await self._run(AppHookKind.PRE_FREEZE, calls)
        return []

    async def after_thaw(self) -> list[str]:
        """Run the post-thaw hooks if `before_freeze` has begun; return a warning per failure."""
        entry = self._target.journal.entry
        if entry.from_park or not entry.hooked:
            return []
        warnings = []
        for call in self._calls.of(AppHookKind.POST_THAW):
            try:
                await self._run(AppHookKind.POST_THAW, [call])
            except CryoError as error:
                warnings.append(error.message)
        self._target.journal.note(hooked=False)
        return warnings

    async def report_after_thaw(self) -> None:
        """Run the post-thaw hooks, and report their warnings where there is no result for them."""
        for text in await self.after_thaw():
            self._report(Progress(phase=Phase.POST_THAW, message=text, warning=True))

    # -- after a restore -----------------------------------------------------------------------

    async def after_restore(self) -> None:
        """Run the post-restore hooks.

        Raises:
            CryoError: one failed, which the message names with its output.
        """
        await self._run(AppHookKind.POST_RESTORE, self._calls.of(AppHookKind.POST_RESTORE))

    # -- running -------------------------------------------------------------------------------

    async def _run(self, kind: AppHookKind, calls: list[HookCall]) -> None:
        for call in calls:
            began = time.monotonic()
            with (
                self._step(Phase(kind)),
                self._named(kind, call),
                failpoints.around(f"hook.{kind}"),
            ):
                await self._run_one(call)
            message = f"{call.container.shown_name} in {time.monotonic() - began:.2f} s"
            self._report(Progress(phase=Phase(kind), message=message))

    @contextlib.contextmanager
    def _named(self, kind: AppHookKind, call: HookCall) -> Iterator[None]:
        """Name the hook in its error."""
        what = f"the hook {kind} of {call.container.shown_name}"
        try:
            yield
        except DeadlineExceeded as error:
            message = f"{what} did not end in {call.timeout_s:g} s"
            raise DeadlineExceeded(message, remedy=f"raise {PREFIX}timeout") from error
        except CryoError as error:
            message = f"{what} failed: {error.message}"
            raise HookFailed(message, remedy=error.remedy or _REMEDY) from error

    async def _run_one(self, call: HookCall) -> None:
        if isinstance(call.action, Command):
            await self._execute(call.container, call.action, call.timeout_s)
        else:
            await self._post(call.container, call.action, call.timeout_s)

    async def _execute(self, one: CheckpointTarget, command: Command, timeout_s: float) -> None:
        done = await one.guest.run(
            command.argv, timeout_s=timeout_s, process=one.spec.data["process"]
        )
        if done.status:
            message = f"exit status {done.status}{_shown(_output(done))}"
            raise HookFailed(message)

    async def _post(self, one: CheckpointTarget, url: Url, timeout_s: float) -> None:
        connecting = one.runsc.sentry.connect(one.ref.id, url.port, timeout_s=timeout_s)
        async with connecting as (reader, writer):
            answer = await http.request(
                reader,
                writer,
                "POST",
                url.target,
                host=f"localhost:{url.port}",
                timeout_s=timeout_s,
                json=b"{}",  # some servers demand an object
            )
        if not answer.ok:
            message = f"POST {url.target}: status {answer.status}{_shown(answer.body)}"
            raise HookFailed(message)


def _output(done: Completed) -> bytes:
    return done.stderr.strip() or done.stdout.strip()


def _shown(output: bytes) -> str:
    """Return the beginning of what a hook printed, safe to print."""
    text = printable(output.strip().decode("utf-8", "replace"), _OUTPUT_MAX)
    return f": {text}" if text else ""
