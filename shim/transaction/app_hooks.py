"""Runs the hooks of a sandbox's containers around a freeze, and after a restore."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from shim import failpoints
from shim.errors import CryoError, DeadlineExceeded, HookFailed
from shim.host import http
from shim.host.text import printable
from shim.model import Phase, Progress, Report, Value
from shim.oci import pod
from shim.oci.app_hooks import (
    PREFIX,
    Action,
    AppHookKind,
    AppHooks,
    Command,
    Url,
    read_app_hooks,
)
from shim.runsc.run import Completed
from shim.transaction.target import CheckpointTarget

_OUTPUT_MAX = 500
_SLACK_S = 10.0
# How long it may take to kill a program that is late.
_BREAK_OFF_S = 120.0
_REMEDY = "correct the hook, or what it calls"

Step = Callable[[Phase], contextlib.AbstractContextManager[None]]
"""Records, reports and times a phase."""


class HookCall(Value):
    """A hook, and the index of the container in which it runs."""

    index: int
    action: Action
    timeout_s: float


class HookRunner:
    """The hooks of one sandbox: of its root container, then of the others by name.

    A checkpoint of a parked task runs none: its park did, and its resume will.
    """

    def __init__(self, target: CheckpointTarget, report: Report, step: Step | None = None) -> None:
        """Take the sandbox; `step` records the phases of its operation, if it is under way."""
        self._target = target
        self._report = report
        self._step = step or self._report_step
        self._hooks = [read_app_hooks(one.spec) for one in target.containers]

    @contextlib.contextmanager
    def _report_step(self, phase: Phase) -> Iterator[None]:
        self._report(Progress(phase=phase))
        yield

    def has(self, *kinds: AppHookKind) -> bool:
        """Whether there is a hook of one of these kinds."""
        return any(hooks.kinds.intersection(kinds) for hooks in self._hooks)

    @property
    def limit_s(self) -> float:
        """Return how long the hooks of one kind may take together, and some more."""
        return _SLACK_S + sum(hooks.timeout_s + _BREAK_OFF_S for hooks in self._hooks)

    # -- around a freeze -----------------------------------------------------------------------

    async def before_freeze(self) -> list[str]:
        """Run the pre-freeze hooks, and return warnings; then `after_thaw` is to be called.

        Raises:
            CryoError: one failed, which the message names with its output.
        """
        parked = self._target.journal.entry.from_park
        if parked or not self.has(AppHookKind.PRE_FREEZE, AppHookKind.POST_THAW):
            return []
        if self._target.paused_ids:
            return ["the task is paused: its hooks do not run"]
        calls = self._calls(AppHookKind.PRE_FREEZE)
        self._calls(AppHookKind.POST_THAW)  # a mistake in them is reported before anything is done
        self._target.journal.note(hooked=True)
        await self._run(AppHookKind.PRE_FREEZE, calls)
        return []

    async def after_thaw(self) -> list[str]:
        """Run the post-thaw hooks if `before_freeze` has begun; return a warning per failure."""
        entry = self._target.journal.entry
        if entry.from_park or not entry.hooked:
            return []
        warnings = []
        for call in self._calls(AppHookKind.POST_THAW):
            try:
                await self._run(AppHookKind.POST_THAW, [call])
            except CryoError as error:
                warnings.append(error.message)
        self._target.journal.note(hooked=False)
        return warnings

    async def report_after_thaw(self) -> None:
        """Run the post-thaw hooks where no result takes their warnings: they are reported."""
        for text in await self.after_thaw():
            self._report(Progress(phase=Phase.POST_THAW, message=text, warning=True))

    # -- after a restore -----------------------------------------------------------------------

    async def after_restore(self) -> None:
        """Run the post-restore hooks.

        Raises:
            CryoError: one failed, which the message names with its output.
        """
        if self.has(AppHookKind.POST_RESTORE):
            await self._run(AppHookKind.POST_RESTORE, self._calls(AppHookKind.POST_RESTORE))

    # -- which, and where ----------------------------------------------------------------------

    def _calls(self, kind: AppHookKind) -> list[HookCall]:
        """List the hooks of a kind, in order.

        Raises:
            HookFailed: it is unclear in which container one is to run.
        """
        found = self._of_root(kind)
        by_name = sorted(range(len(self._target.members)), key=lambda at: self._name(at + 1))
        for at in by_name:
            found += self._of_member(kind, at + 1)
        return found

    def _of_root(self, kind: AppHookKind) -> list[HookCall]:
        """Return the hook without a name: of a pod's it is not the sandbox's own container."""
        hooks = self._hooks[0]
        action = hooks.own.get(kind)
        if action is None:
            return []
        index, members = 0, self._target.members
        if isinstance(action, Command) and pod.is_sandbox(self._target.spec):
            if len(members) != 1:
                message = f"the hook {kind} does not name one of the {len(members)} containers"
                remedy = f"use the annotation {PREFIX}{kind}.CONTAINER"
                raise HookFailed(message, remedy=remedy)
            index = 1
        return [self._call(index, action, hooks)]

    def _of_member(self, kind: AppHookKind, index: int) -> list[HookCall]:
        """Return the hooks that name a member, or else that only it has in its annotations."""
        of_root, of_member = self._hooks[0], self._hooks[index]
        named = of_root.named.get((kind, self._name(index)))
        if named is not None:
            return [self._call(index, named, of_root)]
        own = of_member.own.get(kind)
        if own is None or own == of_root.own.get(kind):
            return []
        return [self._call(index, own, of_member)]

    def _call(self, index: int, action: Action, hooks: AppHooks) -> HookCall:
        return HookCall(index=index, action=action, timeout_s=hooks.timeout_s)

    def _name(self, index: int) -> str:
        one = self._target.containers[index]
        return one.name or one.ref.id

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
            message = f"{self._name(call.index)} in {time.monotonic() - began:.2f} s"
            self._report(Progress(phase=Phase(kind), message=message))

    @contextlib.contextmanager
    def _named(self, kind: AppHookKind, call: HookCall) -> Iterator[None]:
        """Say in an error which hook it was."""
        what = f"the hook {kind} of {self._name(call.index)}"
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
            await self._execute(self._target.containers[call.index], call.action, call.timeout_s)
        else:
            await self._post(self._target.containers[call.index], call.action, call.timeout_s)

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
