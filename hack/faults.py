"""Injects faults into checkpoints and restores at random points, and reports the outcomes.

    make faults N=1000 SEED=1
    python -m hack.faults --case old-phased -n 100 --seed 7 --report docs/faults.md
    python -m hack.faults --case old-phased -n 1000 --seed 7 --skip 400 --add first-400.log
    python -m hack.faults --case new-phased --replay '{"scene": ...}'

Everything but the GPU is real: runsc, the sidecar, disks, signals. The same seed makes the same
choices. Exit status 1: an invariant did not hold after a fault; prints how to repeat that trial.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from shim.model import EngineName, Stage
from tests.builds import find
from tests.faults import trap
from tests.faults.contained import Contained, ContainedTrial, contained, traces
from tests.faults.judge import COPY, TASK
from tests.faults.machine import Case, Halting
from tests.faults.parked import ParkTrial
from tests.faults.plan import (
    OF_SIDECAR,
    OF_SIDECAR_SCENES,
    UNDER_CONTAINERD,
    WHILE_PARKING,
    Plan,
    Scene,
    What,
    choose,
)
from tests.faults.rig import Rig
from tests.faults.trial import Trial

# A machine is replaced after this many trials: leaks of a machine show, but stay bounded.
_TRIALS_PER_MACHINE = 100

_LOST = "NOT WELL"
_ABOUT = """\
Each trial is a real checkpoint or restore of a task with three live processes on a simulated GPU,
by real runsc, with one fault at one point. After recovery everything is checked
(`tests/faults/judge.py`): each process continues with its data intact, or the task has exited and
its image can be restored; and no process, file, mount, socket, descriptor, cgroup or journal is
left. `make faults N=1000 SEED=1 CASE=new` repeats those of `new` with seed 1.""".splitlines()

Traces = dict[Scene, Counter[str]]
# Point, fault, scene and outcome.
Rows = Counter[tuple[str, str, str, str]]
_HEAD = re.compile(r"(?P<run>run of \S+, seed \d+), trials \d+ to \d+, (?P<day>\S+)")
# A line about one trial.
_TOLD = re.compile(
    r" *(?P<name>\S+) +[\d.]+ s  (?P<scene>[^:]+): (?P<what>.+) at (?P<point>\S+) \d+: "
    r"(?P<outcome>.+)"
)


class Carried(Protocol):
    """A trial that can be run."""

    outcome: str

    def run(self) -> None:
        """Run it; raise an exception if an invariant does not hold."""


class Bench(Protocol):
    """A machine for many trials."""

    whats: Sequence[What]

    def traces(self) -> Traces:
        """Run each operation once without a fault; count how often it reaches each point."""

    def trial(self, plan: Plan) -> Carried:
        """Create a trial."""


class OfSidecar:
    """A machine with a sidecar and its task, and an image for restores."""

    whats: Sequence[What] = OF_SIDECAR

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        rig.serve()
        rig.have_task()
        self._base = rig.new_image()
        rig.checkpoint(self._base)

    def trial(self, plan: Plan) -> Trial:
        """Create a trial of an operation of the sidecar."""
        return Trial(self._rig, plan, self._base)

    def traces(self) -> Traces:
        """Run each operation once."""
        return {scene: self._trace(scene) for scene in OF_SIDECAR_SCENES}

    def _trace(self, scene: Scene) -> Counter[str]:
        rig = self._rig
        rig.have_task()
        image = rig.new_image()
        if scene is Scene.PAUSED:
            rig.client.pause(TASK)
        with trap.traced(rig.sim.trap_file) as found:
            if scene is Scene.RESTORE:
                rig.restore(self._base)
            elif scene is Scene.START:
                rig.start_copy()
            else:
                stage = Stage.MEMORY if scene is Scene.STAGED else Stage.AUTO
                rig.checkpoint(image, exit=scene is Scene.EXIT, stage=stage)
        if scene in (Scene.RESTORE, Scene.START):
            rig.remove(COPY)
        else:
            rig.client.remove(str(image))
        if scene is Scene.PAUSED:
            rig.client.resume(TASK)
        return found


class OfParking:
    """A machine with a sidecar, and a task that releases its GPU memory when it is paused."""

    whats: Sequence[What] = WHILE_PARKING

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        rig.parks = True
        rig.serve()

    def trial(self, plan: Plan) -> ParkTrial:
        """Create a trial of park, of a checkpoint while parked, or of unpark."""
        return ParkTrial(self._rig, plan, Path())

    def traces(self) -> Traces:
        """Park, make an image of the parked task, and unpark."""
        self._rig.have_task()
        ways = {
            Scene.PARK: self._rig.client.pause,
            Scene.SAVE_PARKED: self._save,
            Scene.UNPARK: self._rig.client.resume,
        }
        return {scene: self._trace(way) for scene, way in ways.items()}

    def _save(self, _task: str) -> None:
        image = self._rig.new_image()
        self._rig.checkpoint(image)
        self._rig.client.remove(str(image))

    def _trace(self, way: Callable[[str], None]) -> Counter[str]:
        with trap.traced(self._rig.sim.trap_file) as found:
            way(TASK)
        return found


class UnderContainerd:
    """A machine with a containerd that uses our shim."""

    whats: Sequence[What] = UNDER_CONTAINERD

    def __init__(self, made: Contained) -> None:
        self._made = made

    def trial(self, plan: Plan) -> ContainedTrial:
        """Create a trial of an operation that containerd requests."""
        return ContainedTrial(self._made, plan)

    def traces(self) -> Traces:
        """Run each operation once."""
        return traces(self._made)


@contextlib.contextmanager
def of_sidecar(case: Case, kind: Callable[[Rig], Bench] = OfSidecar) -> Iterator[Bench]:
    """Yield a machine for a case, and shut it down at the end."""
    with Halting(find(case.version).path, helper=case.helper) as sim:
        rig = Rig(sim, case)
        rig.mount_state()
        try:
            yield kind(rig)
        finally:
            rig.close()


@contextlib.contextmanager
def under_containerd(version: str) -> Iterator[Bench]:
    """Yield a machine with containerd, and shut it down at the end."""
    with contained(find(version)) as made:
        yield UnderContainerd(made)


CASES: dict[str, Callable[[], contextlib.AbstractContextManager[Bench]]] = {
    **{
        str(case): functools.partial(of_sidecar, case)
        for case in (
            Case("new", EngineName.PHASED),
            Case("new", EngineName.BUILTIN),
            Case("old", EngineName.PHASED),
            Case("new", EngineName.PHASED, helper=False),
        )
    },
    "new-park": functools.partial(of_sidecar, Case("new", EngineName.PHASED), OfParking),
    "new-containerd": functools.partial(under_containerd, "new"),
}


class Run:
    """The trials of one seed on one case."""

    def __init__(self, case: str, seed: int) -> None:
        self._case = case
        self._seed = seed
        self.heads: list[str] = []
        self.rows: Rows = Counter()
        self.failures: list[str] = []
        self._traces: Traces = {}

    def go(self, count: int, skip: int = 0) -> None:
        """Run the trials of the seed from `skip` up to `count`."""
        if count <= skip:
            return
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        head = f"run of {self._case}, seed {self._seed}, trials {skip + 1} to {count}, {day}"
        self.heads.append(head)
        print(head, flush=True)
        todo = iter(range(skip, count))
        left = count - skip
        while left > 0:
            with CASES[self._case]() as made:
                self._traces = self._traces or made.traces()
                for number in itertools.islice(todo, _TRIALS_PER_MACHINE):
                    left -= 1
                    if not self._try(made, number, self._traces):
                        break

    def _try(self, made: Bench, number: int, found: Traces) -> bool:
        rng = random.Random(f"{self._seed}:{number}")  # noqa: S311 - no secret
        plan = choose(rng, found, made.whats)
        return self.attempt(made, plan, str(number + 1))

    def attempt(self, made: Bench, plan: Plan, name: str) -> bool:
        """Run one trial; return false if the machine should not be reused."""
        began = time.monotonic()
        trial = made.trial(plan)
        outcome, well = "", True
        try:
            trial.run()
            outcome = trial.outcome
        except Exception as error:  # noqa: BLE001 - any exception is the result of this trial
            well, outcome = False, _LOST
            self._fail(plan, error)
        self.rows[plan.point, plan.what, plan.scene, outcome] += 1
        spent = time.monotonic() - began
        line = f"{plan.scene}: {plan.what} at {plan.point} {plan.nth}: {outcome}"
        print(f"{name:>5} {spent:5.1f} s  {line}", flush=True)
        return well

    def _fail(self, plan: Plan, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        again = f"python -m hack.faults --case {self._case} --replay '{plan.line()}'"
        self.failures.append(f"{again}\n{error}")
        print(f"{text}\nto repeat it: {again}", flush=True)


def told_in(log: Path) -> tuple[list[str], Rows]:
    """Parse the output of an earlier run: its trials and their outcomes."""
    rows, heads, head, first = Rows(), [""], "", ""
    for line in log.read_text("utf-8").splitlines():
        if found := _HEAD.fullmatch(line):
            head, first = f"{found['run']}, trials {{}} to {{}}, {found['day']}", ""
            heads.append("")
        elif found := _TOLD.fullmatch(line):
            first = first or found["name"]
            heads[-1] = head.format(first, found["name"])
            rows[found["point"], found["what"], found["scene"], found["outcome"]] += 1
    return [line for line in heads if line], rows


def report(heads: Iterable[str], rows: Rows) -> Iterator[str]:
    """Yield the lines of the report."""
    lost = sum(count for (*_, outcome), count in rows.items() if outcome == _LOST)
    yield from ("# What faults did", "", *_ABOUT, "")
    yield f"{sum(rows.values())} faults, after {lost} of which something did not hold."
    yield from ("", *(f"- {head}" for head in heads), "", *table(rows))


def table(rows: Rows) -> Iterator[str]:
    """Yield the lines of the table: point, fault, times, outcomes."""
    grouped: dict[tuple[str, str], Counter[str]] = {}
    for (point, what, _scene, outcome), count in rows.items():
        grouped.setdefault((point, what), Counter())[outcome] += count
    yield "| point | fault | times | outcome |"
    yield "|---|---|---|---|"
    for (point, what), outcomes in sorted(grouped.items()):
        line = "; ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
        yield f"| {point} | {what} | {sum(outcomes.values())} | {line} |"


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(prog="python -m hack.faults")
    parser.add_argument(
        "--case", choices=["new", "old", *CASES], default="new", help="runsc and engine"
    )
    parser.add_argument("-n", type=int, default=100, help="number of trials")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="number of trials of each case to skip")
    parser.add_argument(
        "--add", type=Path, action="append", default=[], help="add the trials of an earlier output"
    )
    parser.add_argument("--report", type=Path, help="write the report to this file")
    parser.add_argument("--replay", help="repeat one trial, as printed by its failure")
    given = parser.parse_args()
    cases = [n for n in CASES if given.case in (n, n.partition("-")[0])]
    runs = []
    for at, case in enumerate(cases):
        run = Run(case, given.seed)
        runs.append(run)
        if given.replay:
            with CASES[case]() as made:
                run.attempt(made, Plan.parse(given.replay), "again")
        else:
            run.go((given.n + len(cases) - 1 - at) // len(cases), given.skip)
    rows, heads = Rows(), []
    for more, counted in (*map(told_in, given.add), *((run.heads, run.rows) for run in runs)):
        heads += more
        rows += counted
    failures = [line for run in runs for line in run.failures]
    if given.report:
        given.report.write_text("\n".join(report(heads, rows)) + "\n", "utf-8")
    print(f"{sum(rows.values())} faults", "", *table(rows), sep="\n")
    print(f"\n{len(failures)} failed", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
