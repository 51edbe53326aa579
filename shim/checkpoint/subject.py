"""What a transaction may touch of one task: handed in by the task room, which owns it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from shim.checkpoint.journal import Journal
from shim.config import Config
from shim.cuda.guest import Guest
from shim.model import TaskRef
from shim.runsc.client import Born, Runsc
from shim.spec.document import Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One task under checkpoint or restore.

    `guest_tool` is cuda-checkpoint's path inside the container, `gpu` whether it may hold CUDA
    state at all, `execs` our own live exec sessions, `stop` kills the task and waits for its end.
    """

    ref: TaskRef
    config: Config
    runsc: Runsc
    guest: Guest
    sandbox: Born
    spec: Spec
    bundle: Path
    guest_tool: str
    gpu: bool
    paused: bool
    execs: tuple[str, ...]
    journal: Journal
    stop: Callable[[], Awaitable[None]]
