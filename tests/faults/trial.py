"""A trial: one fault at one moment of one operation, and the checks after it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from shim.api.cryo.v1.cryo_pb2 import CancelResponse
from shim.errors import CryoError
from shim.model import Stage, Verify
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.faults import trap
from tests.faults.judge import COPY, TASK
from tests.faults.machine import state_of
from tests.faults.plan import Plan, Scene, What
from tests.faults.rig import ROOM_BYTES, Rig
from tests.faults.trap import Deed, Trap
from tests.faults.wire import Outcome, Wire

# Longer than the deadlines of one operation in sum: its save and the kill of it, its rollback
# (120 s) and the command that the rollback started.
_END_S = 240.0
_QUICK = {"detect": 4.0, "lock": 4.0, "freeze": 4.0, "thaw": 4.0, "command": 6.0, "save": 10.0}


_OF_TOOL = {
    What.TOOL_FAILS: Kind.FAIL,
    What.TOOL_FAILS_AFTER: Kind.FAIL_AFTER,
    What.TOOL_HANGS: Kind.HANG,
    What.TOOL_HANGS_AFTER: Kind.HANG_AFTER,
    What.TOOL_LIES: Kind.WRONG_STATE,
}
_BY_ITSELF = {
    What.ERROR: Deed.ERROR,
    What.KILL: Deed.KILL,
    What.SLOW: Deed.SLOW,
    What.CLOCK: Deed.CLOCK,
}
_HARMLESS = (What.SLOW, What.CLOCK)
_NEEDS_DEADLINES = (What.STUCK, What.FROZEN, What.TOOL_HANGS, What.TOOL_HANGS_AFTER)


class Trial:
    """Executes a plan on a rig whose task runs."""

    def __init__(self, rig: Rig, plan: Plan, base: Path) -> None:
        """Create a trial; `base` is an image of the task, for restores."""
        self._rig = rig
        self._plan = plan
        self._base = base
        self._room = rig.small_disk(ROOM_BYTES) if self._needs_disk else rig.sim.folder / "images"
        self._image = self._room / "trial"
        self._error: BaseException | None = None
        self._stopped: list[int] = []
        self._killed: list[int] = []
        self._starved: list[int] = []
        self._frozen = 0
        # The kernel has killed a process of the workload, but not the sandbox.
        self._wounded = False
        self._call: Wire | None = None
        # The outcome that a disconnected caller gets.
        self._reported: Outcome.ValueType | None = None
        self.outcome = ""

    @property
    def _needs_disk(self) -> bool:
        return self._plan.what is What.IMAGES_FULL

    @property
    def _is_restore(self) -> bool:
        return self._plan.scene is Scene.RESTORE

    @property
    def _makes_copy(self) -> bool:
        return self._plan.scene in (Scene.RESTORE, Scene.START)

    def run(self) -> None:
        """Execute the plan, let the sidecar recover, and check everything.

        Raises:
            AssertionError: a check failed.
        """
        self._rig.serve(**(_QUICK if self._plan.what in _NEEDS_DEADLINES else {}))
        self._rig.have_task()
        self._prepare()
        self._arm()
        future = self._begin()
        self._happen(future)
        self._end(future)
        hit = self._hit()
        self._recover()
        self._judge(hit=hit)

    # -- the operation and its fault -----------------------------------------------------------

    def _prepare(self) -> None:
        if self._plan.scene is Scene.PAUSED:
            self._rig.client.pause(TASK)

    def _arm(self) -> None:
        plan = self._plan
        if plan.what in _OF_TOOL:
            self._rig.sim.faults(
                Fault(action=plan.point, kind=_OF_TOOL[plan.what], nth=plan.nth, task=self._task)
            )
            return
        deed = _BY_ITSELF.get(plan.what, Deed.HALT)
        trap.put(self._rig.sim.trap_file, Trap(deed=deed, point=plan.point, nth=plan.nth))

    @property
    def _name(self) -> str:
        return COPY if self._makes_copy else TASK

    @property
    def _task(self) -> str:
        return f"{self._name}+"

    def _begin(self) -> Future[Any]:
        if self._plan.what is What.LEAVE:
            return self._begin_by_wire()
        if self._is_restore:
            return self._rig.begin_restore(self._base)
        if self._plan.scene is Scene.START:
            return self._rig.run(self._rig.start_copy)
        return self._rig.begin(self._image, exit=self._plan.scene is Scene.EXIT, stage=self._stage)

    @property
    def _stage(self) -> Stage:
        return Stage.MEMORY if self._plan.scene is Scene.STAGED else Stage.AUTO

    def _begin_by_wire(self) -> Future[Any]:
        exit_ = self._plan.scene is Scene.EXIT
        call = (
            self._rig.call_restore(self._base)
            if self._is_restore
            else self._rig.call_checkpoint(self._image, exit=exit_, stage=self._stage)
        )
        self._call = call

        def over() -> None:
            if error := call.error():
                raise error

        return self._rig.run(over)

    def _happen(self, future: Future[Any]) -> None:
        """Inject from outside a fault that the sidecar cannot inject itself."""
        what = self._plan.what
        if what in _OF_TOOL or what in _BY_ITSELF:
            return
        if not self._rig.halted_before_the_end_of(future):
            return
        self._strike(what)
        self._rig.resume()

    def _strike(self, what: What) -> None:
        rig = self._rig
        if what is What.SANDBOX:
            self._killed = self._sandbox()  # none yet, early in a restore
            self._kill(self._killed, signal.SIGKILL)
        elif what is What.LEAVE:
            if self._call is not None:
                self._call.leave()
        elif what is What.IMAGES_FULL:
            rig.fill(self._room)
        elif what is What.STATE_FULL:
            rig.fill(rig.sim.folder / "state")
        elif what is What.STARVED:
            self._starved = self._sandbox()
            rig.starve(self._name)
        elif what is What.GPU_FULL:
            used = rig.sim.device()["used_bytes"]
            rig.sim.limit(reserved_bytes=rig.sim.capacity_bytes - used)

        else:
            self._strike_programs(what)

    def _strike_programs(self, what: What) -> None:
        """Inject a fault into the processes that the sidecar has started."""
        rig = self._rig
        if what in (What.RUNSC, What.STUCK):
            number = signal.SIGKILL if what is What.RUNSC else signal.SIGSTOP
            pids = rig.commands()
            self._kill(pids, number)
            self._stopped = pids if what is What.STUCK else []
        elif what is What.FROZEN:
            self._frozen = rig.freeze_runsc()
        elif what is What.SUPERVISOR:
            rig.kill_supervisor()
        elif what is What.TOOL:
            rig.kill_tools(self._name)

    def _sandbox(self) -> list[int]:
        return [pid for pid in self._rig.sandboxes() if self._owns(pid)]

    def _owns(self, pid: int) -> bool:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return self._task.encode() in words

    def _kill(self, pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._rig.sim.remote.kill(pid, number)

    def _end(self, future: Future[Any]) -> None:
        """Wait for the end of the operation or the death of the sidecar."""

        def over() -> bool:
            return future.done() or self._is_dead()

        wait_until(over, "the end of the operation", _END_S)
        with contextlib.suppress(TimeoutError):
            self._error = future.exception(_END_S)
        if self._call is not None and self._hit():
            self._reported = self._call.outcome()

    def _is_dead(self) -> bool:
        return state_of(self._rig.sim.sidecar_pid) in ("", "Z")

    def _hit(self) -> bool:
        if self._plan.what in _OF_TOOL:
            calls = [c for c in self._rig.sim.calls() if c.action == self._plan.point]
            return len([c for c in calls if c.task == self._task]) >= self._plan.nth
        return trap.hit_of(self._rig.sim.trap_file).exists()

    # -- recovery ------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Remove the cause; restart the sidecar if it is dead."""
        rig = self._rig
        trap.remove(rig.sim.trap_file)
        # This may have stopped a process that had forked and not yet become the sandbox.
        self._kill(self._stopped, signal.SIGCONT)
        if self._frozen:
            rig.unfreeze_runsc(self._frozen)
        rig.sim.faults()
        rig.sim.limit(reserved_bytes=0)
        if self._starved:
            self._feed()
        rig.empty(rig.sim.folder / "state", ROOM_BYTES)
        if self._needs_disk:
            rig.empty(self._room, ROOM_BYTES)
        if self._is_dead():
            rig.sim.kill_sidecar()
            rig.serve_again()
        elif rig.journals() or rig.stagings():
            # The next owner undoes what could not be undone before.
            rig.crash()
            rig.serve_again()

    def _feed(self) -> None:
        """Remove the memory limit, and record which processes the kernel has killed."""
        kills = self._rig.feed(self._name)
        self._killed = [pid for pid in self._starved if state_of(pid) in ("", "Z")]
        self._wounded = kills > 0 and not self._killed

    # -- checks --------------------------------------------------------------------------------

    def _judge(self, *, hit: bool) -> None:
        if not hit:
            self.outcome = "not reached"
        self._judge_error()
        if self._reported is not None:
            self._judge_outcome(self._reported)
        if self._is_restore:
            self._judge_copy()
        elif self._plan.scene is Scene.START:
            self._judge_started()
        killed = self._killed and not self._makes_copy
        wait_until(self._is_stopped if killed else self._is_quiet, "the end of it", _END_S)
        if self._rig.state() is TaskState.STOPPED:
            self._judge_stopped()
        else:
            self._judge_running()
        if self._is_restore:
            assert self._rig.client.verify(str(self._base), Verify.FULL)["digest"]

    def _judge_error(self) -> None:
        what, error = self._plan.what, self._error
        if what in _HARMLESS:
            assert error is None, error
        if error is None:
            return
        assert isinstance(error, CryoError), error
        assert error.message
        if what is What.ERROR:
            assert trap.INJECTED in str(error), error

    def _judge_outcome(self, reported: Outcome.ValueType) -> None:
        """Check the outcome for a disconnected caller: completed exactly if there is a result."""
        if self._is_restore:
            there = COPY in {view.id for view in self._rig.client.list()}
        else:
            there = self._has_image()
        wanted = CancelResponse.OUTCOME_COMPLETED if there else CancelResponse.OUTCOME_CANCELLED
        assert reported == wanted, CancelResponse.Outcome.Name(reported)

    def _is_stopped(self) -> bool:
        return self._rig.state() is TaskState.STOPPED

    def _is_quiet(self) -> bool:
        return self._rig.state() not in (TaskState.CHECKPOINTING, TaskState.RESTORING)

    def _judge_copy(self) -> None:
        names = [view.id for view in self._rig.client.list()]
        if COPY not in names:
            self._fail("copy gone")
            assert self._error is not None
            return
        if self._killed:
            # It may have been killed after the restore, and its exit not yet be recorded.
            wait_until(lambda: self._rig.state(COPY) is TaskState.STOPPED, "its end", _END_S)
        state = self._rig.state(COPY)
        if self._wounded:
            self._fail("copy lost a process")
        elif state is TaskState.RUNNING:
            self._fail("copy runs")
            self._rig.assert_thawed(COPY)
        else:
            # Killed from outside after its restore had succeeded, or not removable while a runsc
            # hung in the kernel.
            allowed = self._killed or (self._frozen and self._error is not None)
            assert (state, bool(allowed)) == (TaskState.STOPPED, True), state
            self._fail("copy ended")
        self._rig.remove(COPY)

    def _judge_started(self) -> None:
        """Check a task after create and start: whatever its state, it can be removed."""
        if COPY not in {view.id for view in self._rig.client.list()}:
            self._fail("copy gone")
            assert self._error is not None
            return
        if self._error is None and not self._killed:
            self._rig.sim.until_ready(self._rig.inside, COPY)
            self._rig.assert_thawed(COPY)
        self._fail(f"copy {self._rig.state(COPY)}")
        self._rig.remove(COPY)

    def _judge_stopped(self) -> None:
        """Check a task that has exited: with its sandbox, or by --exit with an image."""
        assert self._rig.client.state(TASK).exit is not None
        killed = self._killed and not self._makes_copy
        if self._plan.scene is Scene.EXIT and not killed:
            assert self._has_image(), "the task was stopped without an image"
        self._rig.client.delete(TASK)
        self._rig.assert_clean()
        self._judge_image("in its image", "ended")

    def _judge_running(self) -> None:
        if self._plan.what is What.GPU_FULL and "is complete" in str(self._error):
            self._judge_lost()
            return
        if self._wounded and not self._makes_copy:
            self._judge_wounded()
            return
        paused = self._plan.scene is Scene.PAUSED
        self._rig.assert_unharmed(TaskState.PAUSED if paused else TaskState.RUNNING, saved=False)
        self._rig.know_fine()
        self._judge_image("runs, and an image", "runs")

    def _judge_lost(self) -> None:
        """Check a task that was lost for lack of GPU memory: its image is complete."""
        assert self._rig.client.list()[0].warning
        self._rig.remove(TASK)
        self._rig.assert_clean()
        assert self._has_image(), "the task is lost, without an image"
        self._judge_image("lost, in its image", "")

    def _judge_wounded(self) -> None:
        """Check a task that has lost a process, which its image may lack as well."""
        self._rig.remove(TASK)
        self._rig.assert_clean()
        self._fail("lost a process")
        if self._has_image():
            self._rig.client.verify(str(self._image), Verify.FULL)
            self._rig.client.remove(str(self._image))

    def _judge_image(self, with_image: str, without: str) -> None:
        if not self._has_image():
            self._fail(without)
            assert self._error is not None or self._makes_copy or self._plan.what is What.KILL
            return
        self._fail(with_image)
        self._rig.assert_restores(self._image)

    def _has_image(self) -> bool:
        return self._rig.sim.remote.run(["test", "-e", str(self._image)]).status == 0

    def _fail(self, outcome: str) -> None:
        self.outcome = ", ".join(filter(None, (self.outcome, outcome)))
