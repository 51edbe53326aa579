"""The requests with progress that the sidecar answers: those under way, and the last that ended."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime

from shim.errors import class_of
from shim.model import Phase, Progress, Report, Value, utcnow
from shim.service.watched import Begun

_ENDED_MAX = 32
_PROCESSES_MAX = 256
_WARNINGS_MAX = 16
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Change(enum.Enum):
    """What is new of a request."""

    TURN = "it begins or ends, or a phase of it begins"
    PROGRESS = "anything else"


class Step(Value):
    """A phase that has begun, with the time since the start of its operation."""

    phase: Phase
    at_s: float


class Running(Value):
    """A request under way; `phase` is the last one that was reported.

    `processes` are the states of its CUDA processes by pid, in a pod by container and pid.
    """

    number: int
    name: str
    namespace: str
    task: str
    image: str
    forwarded: bool
    elapsed_s: float
    phase: Phase | None = None
    steps: tuple[Step, ...] = ()
    message: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    processes: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Ended(Value):
    """A request that has ended; `error` is empty if it succeeded."""

    name: str
    namespace: str
    task: str
    image: str
    began_at: datetime
    ended_at: datetime
    took_s: float
    error: str = ""
    error_kind: str = ""


class _Operation:
    """One request under way; its progress is taken on the event loop."""

    def __init__(self, number: int, begun: Begun) -> None:
        self.begun = begun
        self.name = _WORD.sub(" ", begun.method).lower()
        self.began_at = utcnow()
        self.zero = time.monotonic()
        self._number = number
        self._steps: dict[Phase, float] = {}
        self._last = Progress(phase=Phase.PREFLIGHT)
        self._message = ""
        self._processes: dict[str, str] = {}
        self._warnings: list[str] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.zero

    def take(self, progress: Progress) -> bool:
        """Keep what is new; return whether a phase begins.

        One may be reported again, as the lock is within the freeze.
        """
        if progress.warning:
            if len(self._warnings) < _WARNINGS_MAX:
                self._warnings.append(progress.message)
            return False
        if progress.pid:
            key = f"{progress.container}/{progress.pid}" if progress.container else progress.pid
            if len(self._processes) < _PROCESSES_MAX or str(key) in self._processes:
                self._processes[str(key)] = progress.pid_state
            return False
        begins = progress.phase not in self._steps
        if begins:
            self._steps[progress.phase] = self.elapsed_s
        if progress.phase is not self._last.phase or progress.message:
            self._message = progress.message
        self._last = progress
        return begins

    def view(self) -> Running:
        """Describe it as it is now."""
        return Running(
            number=self._number,
            name=self.name,
            namespace=self.begun.namespace,
            task=self.begun.task,
            image=self.begun.image,
            forwarded=self.begun.forwarded,
            elapsed_s=self.elapsed_s,
            phase=self._last.phase if self._steps else None,
            steps=tuple(Step(phase=phase, at_s=at) for phase, at in self._steps.items()),
            message=self._message,
            bytes_done=self._last.bytes_done,
            bytes_total=self._last.bytes_total,
            processes=dict(self._processes),
            warnings=tuple(self._warnings),
        )

    def end(self, error: BaseException | None) -> Ended:
        """Describe how it ended."""
        return Ended(
            name=self.name,
            namespace=self.begun.namespace,
            task=self.begun.task,
            image=self.begun.image,
            began_at=self.began_at,
            ended_at=utcnow(),
            took_s=self.elapsed_s,
            error="" if error is None else str(error) or class_of(error),
            error_kind="" if error is None else class_of(error),
        )


class Operations:
    """Follows the requests with progress.

    `on_change` is called when something is new.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[Change], None] = lambda _: None
        self._numbers = itertools.count(1)
        self._running: dict[int, _Operation] = {}
        self._ended: deque[Ended] = deque(maxlen=_ENDED_MAX)

    @property
    def running(self) -> list[Running]:
        """Return those under way, the oldest first."""
        return [one.view() for one in self._running.values()]

    @property
    def ended(self) -> list[Ended]:
        """Return the last that ended, the oldest first."""
        return list(self._ended)

    @contextlib.contextmanager
    def watch(self, begun: Begun) -> Iterator[Report]:
        """Follow a request from its begin to its end; give what takes its progress."""
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        one = self._running[number] = _Operation(number, begun)
        self.on_change(Change.TURN)

        def take(progress: Progress) -> None:
            begins = one.take(progress)
            self.on_change(Change.TURN if begins else Change.PROGRESS)

        failure: BaseException | None = None
        try:
            # The core may report from a worker thread.
            yield lambda progress: _call_soon(loop, take, progress)
        except BaseException as error:
            failure = error
            raise
        finally:
            del self._running[number]
            self._ended.append(one.end(failure))
            self.on_change(Change.TURN)


def _call_soon(
    loop: asyncio.AbstractEventLoop, take: Callable[[Progress], None], progress: Progress
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: a thread was left behind
        loop.call_soon_threadsafe(take, progress)
