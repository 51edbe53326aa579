"""The moments of an operation at which something may go wrong, and what must hold after each.

In use they cost one comparison. A test arms a hook, which is then told of every moment as it is
reached, `journal.note:before`, and may fail it, halt there, or do worse.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator

BEFORE, AFTER = "before", "after"
# A process was started for it and is known by its pid.
BEGUN = "begun"

Hook = Callable[[str], None]
_hook: Hook | None = None


class Holds(enum.StrEnum):
    """What must hold once recovery has done its work, whatever went wrong at a point."""

    RUNS = "the task runs as before; no image"
    SAVED = "the task runs as before, or has stopped with a complete image; an image is whole"
    GONE = "the new task runs whole, or is gone; the image is as it was"
    KNOWN = "what has happened is known, by asking if not by the event"


# Every point of a checkpoint, a restore and a task's life. `*` stands for what varies.
POINTS: dict[str, Holds] = {
    "journal.open": Holds.RUNS,
    "journal.note": Holds.SAVED,
    "journal.close": Holds.SAVED,
    "record.save": Holds.SAVED,
    "image.begin": Holds.RUNS,
    "image.hash": Holds.RUNS,
    "image.manifest": Holds.RUNS,
    "image.name": Holds.SAVED,
    "image.sync": Holds.SAVED,
    "image.ledger": Holds.SAVED,
    "image.discard": Holds.RUNS,
    "runsc.ps": Holds.SAVED,
    "runsc.trace": Holds.RUNS,
    "runsc.state": Holds.KNOWN,
    "runsc.exec": Holds.SAVED,
    "runsc.pause": Holds.SAVED,
    "runsc.resume": Holds.SAVED,
    "runsc.checkpoint": Holds.RUNS,
    "runsc.kill": Holds.SAVED,
    "runsc.events": Holds.KNOWN,
    "runsc.update": Holds.KNOWN,
    "runsc.create": Holds.GONE,
    "runsc.restore": Holds.GONE,
    "runsc.start": Holds.GONE,
    "runsc.wait": Holds.GONE,
    "runsc.delete": Holds.GONE,
    "cuda.get-state": Holds.SAVED,
    "cuda.lock": Holds.RUNS,
    "cuda.checkpoint": Holds.RUNS,
    "cuda.restore": Holds.SAVED,
    "cuda.unlock": Holds.SAVED,
    "event.*": Holds.KNOWN,
}


def arm(hook: Hook | None) -> None:
    """Have a hook told of every point that is reached; None ends that."""
    global _hook  # noqa: PLW0603 - one hook for the process is the purpose
    _hook = hook


def reach(name: str, side: str) -> None:
    """Say that a point is reached."""
    if _hook is not None:
        _hook(f"{name}:{side}")


@contextlib.contextmanager
def around(name: str) -> Iterator[None]:
    """Say that a point is reached, before the block and, when that went well, after it."""
    reach(name, BEFORE)
    yield
    reach(name, AFTER)
