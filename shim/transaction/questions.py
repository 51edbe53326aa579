"""What a checkpoint asks about a sandbox, and what to do about a warning of each kind."""

from __future__ import annotations

from shim.finding import Area, Topic
from shim.model import Value


class Question(Value):
    """A question; `remedy` is that of a warning, as a refusal brings its own."""

    topic: Topic
    remedy: str = "see docs/doctor.md"


def _question(area: Area, name: str, remedy: str) -> Question:
    return Question(topic=Topic(area, name), remedy=remedy)


STATE = _question(Area.TASK, "state", "see cryo tasks ls, and kill the task if it cannot go on")
CONTAINERS = _question(Area.TASK, "containers", "delete or start the containers that do not run")
RUNSC = _question(Area.TASK, "runsc", "put the runsc back that created the task, or restart it")
SPEC = _question(Area.TASK, "config.json", "create the container with another config.json")
NETWORK = _question(Area.TASK, "network", "create it with a network of its own")
VOLUMES = _question(
    Area.TASK,
    "volumes",
    "mount the whole volume, or name it in the pod's annotation io.cryo.host-volumes",
)
PROCESSES = _question(Area.GPU, "CUDA processes", "correct what is named, or use --cuda ignore")
DEVICES = _question(
    Area.GPU,
    "GPU devices",
    "end them first, unless they only read from the driver as NVML does",
)
ENGINE = _question(Area.GPU, "engine", "correct what is named, or choose with --engine")
EXECS = _question(
    Area.TASK,
    "exec processes",
    "end them first, or start what has to last from the container's own command",
)
FILES = _question(
    Area.TASK, "files in use", "close them before the checkpoint, such as in a pre-freeze hook"
)
CONNECTIONS = _question(
    Area.TASK,
    "connections",
    "close them before the checkpoint, or let the application connect again after a restore",
)
MEMORY = _question(Area.SYSTEM, "memory for a freeze", "make nvidia-smi work on the host")
DISK = _question(Area.STORAGE, "image", "free space, or pin the images that have to stay")
STAGE = _question(Area.STORAGE, "stage", "choose with --stage")
HOOKS = _question(Area.TASK, "hooks", "resume the task first, if its hooks are needed")
ELSEWHERE = _question(Area.TASK, "restore elsewhere", "restore it where it was saved")
