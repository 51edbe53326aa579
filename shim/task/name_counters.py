"""Counts what becomes of starts by name, in the background: no start waits for that."""

from __future__ import annotations

import logging
from pathlib import Path

from shim.config import Config
from shim.errors import CryoError
from shim.host.filecalls import file_call
from shim.image import named_use
from shim.image.named import ImageRef
from shim.image.named_use import NameOutcome
from shim.model import TaskRef
from shim.task.owner import Owner

# The last words of the events.
TOPICS = {
    NameOutcome.HIT: "hit",
    NameOutcome.MISS: "miss",
    NameOutcome.REFUSAL: "refusal",
    NameOutcome.SAVE: "saved",
    NameOutcome.SKIP: "skipped",
    NameOutcome.FAILURE: "failed",
}
_log = logging.getLogger(__name__)


class NameCounters:
    """The counters of all names, for one owner."""

    def __init__(self, config: Config, owner: Owner) -> None:
        self._images = Path(config.paths.images)
        self._owner = owner

    def count(
        self,
        ref: ImageRef,
        outcome: NameOutcome,
        task: TaskRef,
        reason: str = "",
        *,
        make: bool = False,
    ) -> None:
        """Count and publish what became of a task; of a name without a folder only with `make`."""
        if not self._owner.is_closing:
            self._owner.context().publish_event(
                f"/cryo/warm-{TOPICS[outcome]}",
                task,
                name=ref.name,
                kubernetes_namespace=ref.kubernetes_namespace or "",
                reason=reason,
            )
            work = self._count(ref, outcome, reason, make=make)
            self._owner.context().background.start(work, name=f"count {outcome} of {ref}")

    async def _count(self, ref: ImageRef, outcome: NameOutcome, reason: str, *, make: bool) -> None:
        folder = ref.folder(self._images)
        try:
            await file_call(
                lambda: named_use.count(folder, outcome, reason, make=make),
                doing=f"count in {folder}",
            )
        except CryoError as error:  # such as a full disk: only the count is lost
            _log.warning("%s", error)
