"""Faults of an operation that containerd requests of a shim: shim, containerd or sandbox is killed.

The shims reach the traps themselves: every fork server arms them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc

from shim.errors import CryoError, Unavailable
from shim.simgpu.simulation import Settings, Simulation, wait_until
from shim.transaction import journal
from tests.builds import RunscBuild
from tests.containerd import gpu
from tests.containerd.api import Api
from tests.containerd.beside import Beside, serving
from tests.containerd.builds import LINES, find_containerd
from tests.containerd.cryo import GPU_FLAGS, Cryo
from tests.faults import arming, trap
from tests.faults.judge import COPY, PROCESSES, TASK
from tests.faults.plan import Plan, Scene, What
from tests.faults.trap import Deed, Trap

_END_S = 120.0
_SETTLE_S = 20.0
SCENES = (Scene.RUN_ON, Scene.EXIT, Scene.RESTORE)
WHATS = (What.SHIM, What.SHIM_HANGS, What.CONTAINERD, What.SANDBOX)


class Contained:
    """A containerd whose shims read traps, and a client of it."""

    def __init__(self, sim: Simulation, cryo: Cryo, beside: Beside) -> None:
        self.sim = sim
        self.cryo = cryo
        self.guest = gpu.CtrGuest(cryo)
        self.images = cryo.folder / "images"
        self.trap_file = trap_file(sim)
        self.base = self.images / "base"
        # More annotations of its containers.
        self.annotations: dict[str, str] = {}
        self._beside = beside
        self._pool = ThreadPoolExecutor(1)
        self.have_task()
        self.checkpoint(self.base)
        self.clear()
        cryo.know()

    # Requests to containerd.

    def have_task(self, *, exit_: bool = False) -> None:
        """Create and start the task; with `exit_` its annotation makes a checkpoint stop it."""
        with Api(self.cryo) as api:
            self.create(api, exit_=exit_)
            api.start(TASK)
        self.sim.until_ready(self.guest, TASK)

    def create(self, api: Api, *, exit_: bool = False) -> None:
        """Create the container and its task."""
        wanted = self.annotations | ({"io.cryo.exit": "true"} if exit_ else {})
        spec = gpu.write_spec(
            self.sim, self.cryo, TASK, Settings(processes=PROCESSES, period_s=0.25), wanted
        )
        api.container(TASK, json.loads(spec.read_text("utf-8")))
        api.create(TASK)

    def checkpoint(self, image: Path) -> None:
        """Checkpoint the task through containerd, or with hooks by `cryo` in its shim.

        ctr pauses a task before, and the hooks of a paused task do not run.
        """
        run = self._beside if self.annotations else self.cryo.ctr
        run("tasks", "checkpoint", "--image-path", str(image), TASK)

    def restore(self, image: Path) -> None:
        """Restore a task from an image through containerd, in a new shim."""
        settings = Settings(processes=PROCESSES, period_s=0.25)
        spec = gpu.write_spec(self.sim, self.cryo, COPY, settings, self.annotations)
        with Api(self.cryo) as api:
            api.container(COPY, json.loads(spec.read_text("utf-8")))
            api.create(COPY, image_path=str(image))
            api.start(COPY)

    def begin(self, scene: Scene, image: Path) -> Future[None]:
        """Start the operation of a scene in the background."""
        if scene is Scene.RESTORE:
            return self._pool.submit(self.restore, self.base)
        return self._pool.submit(self.checkpoint, image)

    def verify(self, image: Path) -> None:
        """Verify every byte of an image with `cryo`."""
        self._beside("checkpoints", "verify", str(image))

    def list_tasks(self) -> None:
        """List the tasks with `cryo`, including those of a shim that hangs.

        Raises:
            DeadlineExceeded: the list took too long.
        """
        self._beside("tasks", "ls")

    # Observations from outside.

    def has(self, path: Path) -> bool:
        """Whether this path exists in the place."""
        return self.cryo.place.remote.run(["test", "-e", str(path)]).status == 0

    def has_journal(self, name: str) -> bool:
        """Whether the journal of an operation of this task is open."""
        argv = ["find", str(self.cryo.state), "-path", f"*/{name}/{journal.NAME}"]
        return bool(self.cryo.place.remote.run(argv).out)

    def sandboxes(self) -> list[int]:
        """List the sandboxes."""
        return self.cryo.processes(r"^runsc-sandbox ")

    def clear(self) -> None:
        """Remove the tasks, in whatever state they are."""
        for name in (TASK, COPY):
            self.cryo.remove(name)

    def assert_clean(self) -> None:
        """Check that no task has left anything behind."""
        argv = ["find", str(self.images), "-name", ".cryo-staging-*"]

        def left() -> list[str]:
            return self.cryo.place.remote.run(argv).out.split()

        # containerd forgets a task whose shim was killed before its leftovers are removed.
        with contextlib.suppress(CryoError):
            wait_until(lambda: not left(), "the removal of staging directories", _SETTLE_S)
        assert left() == []
        self.cryo.expect_nothing_new()

    def remove(self, image: Path) -> None:
        """Remove an image, if it exists."""
        self.cryo.place.remote.run(["rm", "-rf", str(image)])


class ContainedTrial:
    """Executes a plan under containerd."""

    def __init__(self, bench: Contained, plan: Plan) -> None:
        self._bench = bench
        self._plan = plan
        self._image = bench.images / "trial"
        self._name = COPY if plan.scene is Scene.RESTORE else TASK
        self._error: BaseException | None = None
        self.outcome = ""

    def run(self) -> None:
        """Execute the plan, let containerd and the next shim recover, and check everything.

        Raises:
            AssertionError: a check failed; a note has the log of this trial.
        """
        log = self._bench.cryo.log_path
        start = log.stat().st_size
        try:
            self._run()
        except Exception as error:
            error.add_note(log.read_bytes()[start:].decode("utf-8", "replace"))
            raise

    def _run(self) -> None:
        bench, plan = self._bench, self._plan
        if plan.scene is not Scene.RESTORE:
            bench.have_task(exit_=plan.scene is Scene.EXIT)
        deed = Deed.KILL if plan.what is What.SHIM else Deed.HALT
        trap.put(bench.trap_file, Trap(deed=deed, point=plan.point, nth=plan.nth))
        future = bench.begin(plan.scene, self._image)
        if deed is Deed.HALT:
            self._strike(future)
        self._error = future.exception(_END_S)
        hit = trap.hit_of(bench.trap_file).exists()
        trap.remove(bench.trap_file)
        if not hit:
            self.outcome = "not reached"
        self._judge(hit=hit)

    def _strike(self, future: Future[None]) -> None:
        bench = self._bench
        wait_until(lambda: bool(arming.halted(bench.cryo)) or future.done(), "the halt", _END_S)
        halted = arming.halted(bench.cryo)
        if self._plan.what is What.SANDBOX and halted:
            for pid in bench.sandboxes():
                _send(pid, signal.SIGKILL)
        elif self._plan.what is What.SHIM_HANGS and halted:
            # `cryo` does not wait for it, and lists its task with a warning.
            bench.list_tasks()
        elif halted:
            bench.cryo.kill()
        for pid in halted:
            _send(pid, signal.SIGCONT)
        if self._plan.what is What.CONTAINERD and halted:
            bench.cryo.start()

    def _judge(self, *, hit: bool) -> None:
        harmless = (What.CONTAINERD, What.SHIM_HANGS)
        bench, killed = self._bench, hit and self._plan.what not in harmless
        if killed:
            wait_until(self._is_over, f"the end of {self._name}", _END_S)
        wait_until(self._is_settled, "a status", _END_S)
        status = bench.cryo.status(self._name)
        if status in ("RUNNING", "PAUSED"):
            self._judge_running()
        else:
            self._judge_ended(status, killed=killed)
        bench.clear()
        image = bench.has(self._image)
        self.outcome += ", and an image" if image else ""
        self._judge_error(image=image)
        bench.assert_clean()
        if image:
            self._judge_image()

    def _is_settled(self) -> bool:
        """Whether no operation is under way; a task is created until the end of a restore."""
        status = self._bench.cryo.status(self._name)
        restored = status == "CREATED" and self._bench.has_journal(self._name)
        return status not in ("UNKNOWN", "PAUSING") and not restored

    def _is_over(self) -> bool:
        """Whether the task has exited, or the trap was hit before its sandbox existed."""
        return self._bench.cryo.status(self._name) in ("", "STOPPED") or not self._touched()

    def _touched(self) -> bool:
        """Whether the fault has killed the shim or a sandbox that existed."""
        return self._plan.what is What.SHIM or not self._bench.sandboxes()

    def _judge_running(self) -> None:
        bench = self._bench
        self._fail("runs")
        wait_until(self._works, "its work", _END_S)
        status = bench.sim.verify(bench.guest, self._name)
        assert status.intact, status
        assert [p.state for p in status.processes] == ["running"] * PROCESSES

    def _works(self) -> bool:
        bench = self._bench
        if bench.cryo.status(self._name) == "PAUSED":
            # ctr pauses a task before it is saved, and could not resume it.
            assert self._plan.what is What.CONTAINERD
            bench.cryo.ctr("tasks", "resume", self._name, check=False)
        with contextlib.suppress(Unavailable):
            return bench.sim.works(bench.guest, self._name, _SETTLE_S)
        return False

    def _judge_ended(self, status: str, *, killed: bool) -> None:
        """Check a task that is gone: it was killed, was not created, or is in its image."""
        self._fail("gone" if status == "" else status.lower())
        reported = self._plan.scene is Scene.EXIT and self._bench.has(self._image)
        allowed = killed or reported or self._plan.scene is Scene.RESTORE
        assert allowed, f"the task is {status or 'gone'}, without an image"

    def _judge_error(self, *, image: bool) -> None:
        if self._error is None:
            assert image or self._plan.scene is Scene.RESTORE, "the call succeeded without an image"
            return
        # The errors of ctr and grpc for a failed call.
        assert isinstance(self._error, AssertionError | grpc.RpcError | CryoError), self._error
        assert str(self._error)

    def _judge_image(self) -> None:
        bench = self._bench
        bench.verify(self._image)
        bench.restore(self._image)
        assert bench.sim.works(bench.guest, COPY, _SETTLE_S)
        assert bench.sim.verify(bench.guest, COPY).intact
        bench.clear()
        bench.remove(self._image)

    def _fail(self, outcome: str) -> None:
        self.outcome = ", ".join(filter(None, (self.outcome, outcome)))


def trap_file(sim: Simulation) -> Path:
    """Return the path of the trap file of a simulation's shims."""
    return sim.folder / "trap.json"


def traces(bench: Contained) -> dict[Scene, Counter[str]]:
    """Run each operation once without a fault; count how often it reaches each failpoint."""
    found: dict[Scene, Counter[str]] = {}
    for scene in SCENES:
        if scene is not Scene.RESTORE:
            bench.have_task(exit_=scene is Scene.EXIT)
        with trap.traced(bench.trap_file) as found[scene]:
            bench.begin(scene, bench.images / "trace").result(_END_S)
        bench.clear()
        bench.remove(bench.images / "trace")
    return found


@contextlib.contextmanager
def contained(build: RunscBuild) -> Iterator[Contained]:
    """Yield the newest containerd on a machine with a simulated GPU, whose shims read traps."""
    with Simulation(build.path) as sim:
        env = arming.env_of(sim.folder / "arming", trap_file(sim))
        settings = {"cuda": sim.settings_of_cuda(), "host": sim.settings_of_host()}
        place = gpu.place_of(sim)
        with (
            Cryo(
                find_containerd(LINES[-1]),
                place,
                build.path,
                flags=GPU_FLAGS,
                settings=settings,
                env=env,
            ) as cryo,
            serving(cryo) as beside,
        ):
            yield Contained(sim, cryo, beside)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
