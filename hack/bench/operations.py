"""What a user of ctr waits for with our shim, gVisor's own and runc's, which saves with CRIU.

In each round a container of each runtime is started, executes a program, is saved by `ctr tasks
checkpoint`, and copied by `ctr containers checkpoint` and `restore`; then it is deleted. What a
runtime cannot do is said in its row.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from hack.bench import inside
from hack.bench.ctr import Ctr
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.row import Rows, missing, ms, ratio
from hack.bench.shim_node import CRYO, RUNTIMES, node
from hack.bench.turns import timed, turned

ROUNDS = 9
_STEPS = ("start", "exec", "checkpoint", "restore", "delete")
_REASON_MAX = 160


def measure(runsc: Path, effort: Effort) -> Rows:
    """Start containerd, and measure in its namespace."""
    with node(runsc) as here:
        return inside.run(here.place.remote, here.containerd.folder, part, effort, here.given)


def part(given: Given, effort: Effort) -> Rows:
    """Measure the lives of containers by turns."""
    users = {runtime: User(Ctr(given), runtime, Path(given["folder"])) for runtime in RUNTIMES}
    for user in users.values():
        user.live(-1)
        user.spent.clear()
    for number in effort.rounds(ROUNDS):
        for user in turned(list(users.values()), number):
            user.live(number)
    rows: Rows = {}
    ours = users[CRYO].spent
    for step in _STEPS:
        for runtime, user in users.items():
            key = f"operations.{step}"
            if step in user.why:
                rows[f"{key}.{runtime}"] = missing("ms", user.why[step])
                continue
            rows[f"{key}.{runtime}"] = ms(user.spent[step])
            if runtime != CRYO and step in ours:
                rows[f"{key}.ratio-{runtime}"] = ratio(ours[step], user.spent[step])
    return rows


class User:
    """Uses containers of one runtime; `why` has the steps that it cannot do."""

    def __init__(self, ctr: Ctr, runtime: str, folder: Path) -> None:
        self._ctr = ctr
        self._runtime = runtime
        self._images = folder / f"images-{runtime}"
        self._work = folder / f"work-{runtime}"
        self._work.mkdir()
        self.spent: dict[str, list[float]] = {}
        self.why: dict[str, str] = {}

    def live(self, number: int) -> None:
        """Start, use, save, copy and delete a container."""
        name = f"{self._runtime}-job{number}"
        self._step("start", lambda: self._ctr.begin(self._runtime, name, "sleep", "1000"))
        run = ("tasks", "exec", "--exec-id", "one", name, "true")
        self._step("exec", lambda: self._ctr.call(*run))
        self._try("checkpoint", lambda: self._save(name))
        self._copy(name)
        self._step("delete", lambda: self._ctr.end(name))

    def _save(self, name: str) -> None:
        where = ("--image-path", str(self._images), "--work-path", str(self._work))
        self._ctr.call("tasks", "checkpoint", *where, name)

    def _copy(self, name: str) -> None:
        image, copy = f"localhost/{name}:saved", f"{name}-copy"
        how = ("--rw", "--image", "--task")
        try:
            self._ctr.call("containers", "checkpoint", *how, name, image)
        except RuntimeError as error:
            self.why["restore"] = self._reason(error)
            return
        restore = ("containers", "restore", "--rw", "--live", copy, image)
        self._try("restore", lambda: self._ctr.call(*restore))
        if "restore" not in self.why:
            self._ctr.end(copy)
        self._ctr.call("images", "rm", "--sync", image)

    def _try(self, step: str, work: Callable[[], None]) -> None:
        """Measure a step that a runtime may not be able to take."""
        shutil.rmtree(self._images, ignore_errors=True)
        if step in self.why:
            return
        try:
            self._step(step, work)
        except RuntimeError as error:
            self.why[step] = self._reason(error)

    def _step(self, step: str, work: Callable[[], None]) -> None:
        spent = timed(work)
        self.spent.setdefault(step, []).append(spent)

    def _reason(self, error: RuntimeError) -> str:
        """Return in a line why it failed: what CRIU has logged, or what ctr has printed."""
        logs = [path.read_text("utf-8", "replace") for path in self._work.rglob("dump.log")]
        version = [line for log in logs for line in re.findall(r"Version: (\S+)", log)][:1]
        errors = [line for log in logs for line in re.findall(r"Error \(.*", log)]
        # A program that CRIU tries to run is rarely the reason.
        if reasons := [one for one in errors if "exited, status" not in one]:
            return f"CRIU {' '.join(version)}: {reasons[0]}"
        return str(error).splitlines()[-1].strip().replace("|", "/")[:_REASON_MAX]
