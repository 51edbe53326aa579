"""The plan of a trial: an operation, a fault, and the failpoint at which it is injected."""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Sequence

import msgspec

from shim.model import Value


class Scene(enum.StrEnum):
    """The operation."""

    RUN_ON = "checkpoint"
    EXIT = "checkpoint --exit"
    STAGED = "checkpoint by way of memory"
    PAUSED = "checkpoint of a paused task"
    RESTORE = "restore"
    START = "create and start"
    PARK = "park"
    UNPARK = "unpark"
    SAVE_PARKED = "checkpoint of a parked task"


OF_IMAGES = (Scene.RUN_ON, Scene.EXIT, Scene.STAGED, Scene.PAUSED, Scene.RESTORE)
OF_SIDECAR_SCENES = (*OF_IMAGES, Scene.START)


class What(enum.StrEnum):
    """The fault."""

    ERROR = "the step fails"
    KILL = "sidecar killed"
    SANDBOX = "sandbox killed"
    RUNSC = "runsc killed"
    STUCK = "runsc hangs"
    FROZEN = "runsc hangs in the kernel"
    SUPERVISOR = "supervisor killed"
    TOOL = "cuda-checkpoint killed"
    LEAVE = "caller leaves"
    IMAGES_FULL = "image disk full"
    STATE_FULL = "state disk full"
    GPU_FULL = "GPU memory full"
    STARVED = "memory limit hit"
    SLOW = "the step is slow"
    CLOCK = "clock jumps"
    TOOL_FAILS = "cuda-checkpoint fails"
    TOOL_FAILS_AFTER = "cuda-checkpoint fails after all was done"
    TOOL_HANGS = "cuda-checkpoint hangs"
    TOOL_HANGS_AFTER = "cuda-checkpoint hangs after all was done"
    TOOL_LIES = "cuda-checkpoint says yes and does nothing"
    SHIM = "shim killed"
    SHIM_HANGS = "shim hangs for a while"
    CONTAINERD = "containerd killed"


UNDER_CONTAINERD = (What.SHIM, What.SHIM_HANGS, What.CONTAINERD, What.SANDBOX)
_OF_SHIMS = (What.SHIM, What.SHIM_HANGS, What.CONTAINERD)
OF_SIDECAR = tuple(what for what in What if what not in _OF_SHIMS)
# No image is written, and a unary call is cancelled by its deadline only.
WHILE_PARKING = tuple(w for w in OF_SIDECAR if w not in (What.IMAGES_FULL, What.LEAVE))
OF_TOOL = (
    What.TOOL_FAILS,
    What.TOOL_FAILS_AFTER,
    What.TOOL_HANGS,
    What.TOOL_HANGS_AFTER,
    What.TOOL_LIES,
)
# A start moves no GPU process, writes no image, and is not a streaming call.
_NOT_IN_START = (*OF_TOOL, What.TOOL, What.LEAVE, What.IMAGES_FULL, What.GPU_FULL, What.STARVED)
_ACTIONS = ("lock", "checkpoint", "restore", "unlock")
# Publishing an event cannot fail.
_CANNOT_FAIL = ("event.",)


class Plan(Value):
    """The plan; `point` is a failpoint with before or after, or an action of cuda-checkpoint."""

    scene: Scene
    what: What
    point: str
    nth: int

    def line(self) -> str:
        """Return the plan as JSON, for output and for `--replay`."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def parse(line: str) -> Plan:
        """Parse the output of `line`."""
        return msgspec.json.decode(line, type=Plan)


def choose(
    rng: random.Random, traces: dict[Scene, Counter[str]], whats: Sequence[What] = OF_SIDECAR
) -> Plan:
    """Choose an operation, a fault, and a failpoint at which the fault makes sense."""
    while True:
        scene, what = rng.choice(list(traces)), rng.choice(whats)
        points = _points(scene, what, traces[scene])
        if points:
            point = rng.choice(sorted(points))
            return Plan(scene=scene, what=what, point=point, nth=rng.randint(1, points[point]))


def _points(scene: Scene, what: What, trace: Counter[str]) -> dict[str, int]:
    if scene is Scene.START and what in _NOT_IN_START:
        return {}
    if what in OF_TOOL:
        return dict.fromkeys(_ACTIONS, 3)
    if what in (What.RUNSC, What.STUCK):
        return {point: n for point, n in trace.items() if point.endswith(":begun")}
    if what is What.TOOL:
        return {point: n for point, n in trace.items() if point == "runsc.exec:begun"}
    if what is What.ERROR:
        return {point: n for point, n in trace.items() if not point.startswith(_CANNOT_FAIL)}
    return dict(trace)
