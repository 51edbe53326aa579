"""Removes images by policy: to make room for a new one, or to tidy up. Every call may block."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from shim.errors import Busy, CryoError, NotFound, Refused, ResourceExhausted
from shim.host import files
from shim.host.sizes import size
from shim.image import deletion, in_use, listing, named, retention, staging, walk
from shim.image import manifest as manifests
from shim.image.name import parse
from shim.image.retention import Plan, Policy, Removal, Space, StoredImage
from shim.image.verify_cache import VerifyCache
from shim.model import Value, utcnow

_log = logging.getLogger(__name__)
PINNED, IN_USE = "pinned", "in use"
Stop = Callable[[], bool]
"""Whether to remove no more images."""


class Kept(Value):
    """An image that the policy would have removed, and why it stays."""

    path: Path
    reason: str


class Pruned(Value):
    """What was removed and what was not, and by how much the limits are still exceeded."""

    removed: tuple[Removal, ...] = ()
    kept: tuple[Kept, ...] = ()
    missing_bytes: int = 0


class Eviction:
    """One application of a policy to the images below a folder."""

    def __init__(
        self, images: Path, cache: VerifyCache, policy: Policy, stop: Stop | None = None
    ) -> None:
        """Take the configured folder, and what is asked before each removal."""
        self._images = images
        self._cache = cache
        self._policy = policy
        self._stop = stop or _never
        self._kept: dict[Path, str] = {}
        self._removed: list[Removal] = []
        self._free_bytes = 0

    def make_room(self, needed_bytes: int = 0, *, dry_run: bool = False) -> Pruned:
        """Make room for an image that has not been begun, and for those that have been.

        Nothing is removed if there would be no room after all, nor with `dry_run`.

        Raises:
            ResourceExhausted: the images that may not be removed leave no room.
        """
        if not self._policy.limits_space:
            return Pruned()
        pruned = self._run(needed_bytes, only_for_room=True, dry_run=dry_run)
        if pruned.missing_bytes:
            found = self._stored()
            why = retention.over(pruned.missing_bytes, found, self._policy)
            more = f"for {size(needed_bytes)} more " if needed_bytes else ""
            message = f"no space {more}in {self._images}: {why}"
            raise ResourceExhausted(
                message, remedy="remove or unpin images, or change [store] in config.toml"
            )
        return pruned

    def prune(self, *, dry_run: bool = False) -> Pruned:
        """Remove what has expired, what is beyond the last ones, and what exceeds the limits.

        With `dry_run` nothing is removed: the result says what would be.
        """
        pruned = self._run(0, only_for_room=False, dry_run=dry_run)
        if pruned.missing_bytes and not dry_run:
            why = retention.over(pruned.missing_bytes, self._stored(), self._policy)
            _log.warning("the images in %s exceed their limits: %s", self._images, why)
        return pruned

    def _run(self, needed_bytes: int, *, only_for_room: bool, dry_run: bool) -> Pruned:
        # Measured once: some filesystems free blocks some time after a removal.
        self._free_bytes = files.free_bytes(self._images)
        while True:
            plan = self._plan(needed_bytes, only_for_room=only_for_room)
            if only_for_room and plan.missing_bytes:
                break
            again = self._look(plan) if dry_run else self._carry_out(plan)
            if not again:
                break
        kept = tuple(Kept(path=path, reason=why) for path, why in self._kept.items())
        return Pruned(removed=tuple(self._removed), kept=kept, missing_bytes=plan.missing_bytes)

    def _plan(self, needed_bytes: int, *, only_for_room: bool) -> Plan:
        unfinished, unwritten = self._unfinished()
        space = Space(
            free_bytes=self._free_bytes,
            unfinished_bytes=unfinished,
            unwritten_bytes=unwritten,
            needed_bytes=needed_bytes,
        )
        return retention.decide(
            self._stored(), self._policy, utcnow(), space, only_for_room=only_for_room
        )

    def _carry_out(self, plan: Plan) -> bool:
        """Remove images; return whether to plan again, as some may not have been removable."""
        for removal in plan.removals:
            if self._stop():
                return False
            if self._apply(removal, self._remove):
                self._removed.append(removal)
                self._free_bytes += removal.size_bytes
                _log.info("removed image %s: %s", removal.path, removal.reason)
        return bool(plan.removals)

    def _look(self, plan: Plan) -> bool:
        """Find out which images would be removed; return whether others would be instead."""
        before = len(self._kept)
        self._removed = [one for one in plan.removals if self._apply(one, _try)]
        return len(self._kept) > before

    def _apply(self, removal: Removal, remove: Callable[[Path], None]) -> bool:
        """Return whether an image was removed; note why it was not."""
        path = removal.path
        try:
            with named.not_saving(path):
                remove(path)
        except NotFound:
            return False  # removed by another process
        except Busy:
            self._kept[path] = IN_USE
        except Refused:
            self._kept[path] = PINNED
        except CryoError as error:
            _log.warning("image %s cannot be removed: %s", path, error)
            self._kept[path] = f"not removable ({error})"
        return path not in self._kept

    def _remove(self, path: Path) -> None:
        deletion.remove(path, self._images, self._cache)

    def _stored(self) -> list[StoredImage]:
        found = map(self._stored_image, walk.images(self._images))
        return [image for image in found if image is not None]

    def _stored_image(self, path: Path) -> StoredImage | None:
        view = listing.view(path)
        try:
            arrived = (path / manifests.NAME).lstat().st_ctime
        except OSError:
            return None  # removed meanwhile
        if view is None:
            return None
        kept = PINNED if view.pinned else self._kept.get(path)
        groups = {
            f"{namespace}/{parse(name, namespace).repository}"
            for namespace, names in view.names.items()
            for name in names
        }
        return StoredImage(
            path=path,
            groups=tuple(sorted(groups)) or (self._folder_of(path),),
            size_bytes=_size(path),
            created_at=view.created_at,
            used_at=view.last_used_at or datetime.fromtimestamp(arrived, UTC),
            expires_at=view.expires_at,
            kept=kept,
        )

    def _folder_of(self, path: Path) -> str:
        """Return the folder of the images of one task, or of one name."""
        folder = path.parent.parent if named.is_of_name(path) else path.parent
        return os.fsencode(folder.relative_to(self._images)).decode("utf-8", "backslashreplace")

    def _unfinished(self) -> tuple[int, int]:
        """Return the size that unfinished images will have, and the part that is not written."""
        total = unwritten = 0
        for path in walk.stagings(self._images):
            written = staging.written_bytes(path)
            whole = written
            if staging.is_live(path):
                whole = max(written, _size(path), staging.expected_bytes(path))
            total += whole
            unwritten += whole - written
        return total, unwritten


def _never() -> bool:
    return False


def _try(path: Path) -> None:
    with in_use.alone(path):
        pass


def _size(path: Path) -> int:
    """Return the size of the files in a folder, as much of it as there still is."""
    return sum(found.st_size for found in staging.files_in(path))
