"""Failpoints: the steps of an operation that may fail, and the invariant that holds after each.

In production a failpoint costs one comparison. A test arms a hook, which is called at every point
with its name, such as `journal.note:before`, and may raise an error, block, or kill the process.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator

BEFORE, AFTER = "before", "after"
# A process was started for the step, and its pid was recorded.
BEGUN = "begun"

Hook = Callable[[str], None]
_hook: Hook | None = None


class Invariant(enum.StrEnum):
    """What holds after recovery from any failure at a failpoint."""

    RUNS = "the task runs as before; no image"
    SAVED = "the task runs as before, or has stopped with a complete image; any image is complete"
    GONE = "the new task runs completely, or is gone; the image is unchanged"
    NAMED = "a name refers to one complete image or to none; an image is complete or removed"
    SENT = "the place has the old or the new image under its tag; the next push completes it"
    FETCHED = "there is a complete image or none; the next pull does not fetch again what is there"
    KNOWN = "the outcome can be read by a call, if not from the event"


# Every failpoint of a checkpoint, a restore, the task lifecycle and the image store.
# `*` matches anything.
FAILPOINTS: dict[str, Invariant] = {
    "journal.open": Invariant.RUNS,
    "journal.note": Invariant.SAVED,
    "journal.close": Invariant.SAVED,
    "record.save": Invariant.SAVED,
    "image.begin": Invariant.RUNS,
    "image.stage": Invariant.RUNS,
    "image.copy": Invariant.RUNS,
    "image.hash": Invariant.RUNS,
    "image.manifest": Invariant.RUNS,
    "image.name": Invariant.SAVED,
    "image.sync": Invariant.SAVED,
    "image.verify-cache": Invariant.SAVED,
    "image.verify-pages": Invariant.GONE,
    "image.discard": Invariant.RUNS,
    "push.blob": Invariant.SENT,
    "push.document": Invariant.SENT,
    "pull.begin": Invariant.FETCHED,
    "pull.chunk": Invariant.FETCHED,
    "pull.journal": Invariant.FETCHED,
    "pull.manifest": Invariant.FETCHED,
    "pull.commit": Invariant.FETCHED,
    "image.label": Invariant.NAMED,
    "image.index": Invariant.NAMED,
    "image.remove": Invariant.NAMED,
    "image.erase": Invariant.NAMED,
    "runsc.ps": Invariant.SAVED,
    "runsc.trace": Invariant.RUNS,
    "runsc.state": Invariant.KNOWN,
    "runsc.exec": Invariant.SAVED,
    "runsc.pause": Invariant.SAVED,
    "runsc.resume": Invariant.SAVED,
    "runsc.checkpoint": Invariant.RUNS,
    "runsc.kill": Invariant.SAVED,
    "runsc.events": Invariant.KNOWN,
    "runsc.update": Invariant.KNOWN,
    "runsc.create": Invariant.GONE,
    "runsc.restore": Invariant.GONE,
    "runsc.start": Invariant.GONE,
    "runsc.wait": Invariant.GONE,
    "runsc.delete": Invariant.GONE,
    "cuda.get-state": Invariant.SAVED,
    "cuda.lock": Invariant.RUNS,
    "cuda.checkpoint": Invariant.RUNS,
    "cuda.restore": Invariant.SAVED,
    "cuda.unlock": Invariant.SAVED,
    "hook.pre-freeze": Invariant.RUNS,
    "hook.post-thaw": Invariant.SAVED,
    "hook.post-restore": Invariant.GONE,
    "event.*": Invariant.KNOWN,
}


def arm(hook: Hook | None) -> None:
    """Set the hook that is called at every failpoint; None removes it."""
    global _hook  # noqa: PLW0603 - one hook for the process is the purpose
    _hook = hook


def reach(name: str, side: str) -> None:
    """Call the hook for a failpoint that is reached."""
    if _hook is not None:
        _hook(f"{name}:{side}")


@contextlib.contextmanager
def around(name: str) -> Iterator[None]:
    """Call the hook before the block and, if that succeeds, after it."""
    reach(name, BEFORE)
    yield
    reach(name, AFTER)
