"""Decides which images a policy removes, in which order, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from shim.config import Store
from shim.host.sizes import parse_size, size
from shim.model import Value

_TIME = "%Y-%m-%d %H:%M:%S UTC"


class Policy(Value):
    """What the store keeps; None is no limit.

    `ttl_s` is the time since the last use of an image, or since it came into the store.
    """

    quota_bytes: int | None = None
    keep_last: int | None = None
    ttl_s: float | None = None
    min_free_bytes: int | None = None

    @property
    def limits_space(self) -> bool:
        """Whether there must be room before an image is written."""
        return self.quota_bytes is not None or self.min_free_bytes is not None


class PruneOptions(Value):
    """Options of one prune; None is as configured. With `dry_run` nothing is removed."""

    dry_run: bool = False
    keep_last: int | None = None
    older_than_s: float | None = None
    quota_bytes: int | None = None


AS_CONFIGURED = PruneOptions()


class StoredImage(Value):
    """An image of the store. `groups` are those of which the last ones are kept.

    `kept` is why it may not be removed, None if it may.
    """

    path: Path
    groups: tuple[str, ...]
    size_bytes: int
    created_at: datetime
    used_at: datetime
    expires_at: datetime | None = None
    kept: str | None = None


class Space(Value):
    """The free space of the disk, and what images that are being written take of it.

    `unfinished_bytes` is the size that these will have, `unwritten_bytes` the part of it that is
    still to be written; `needed_bytes` is the size of one that has not been begun.
    """

    free_bytes: int
    unfinished_bytes: int = 0
    unwritten_bytes: int = 0
    needed_bytes: int = 0


class Removal(Value):
    """An image that is to be removed, and why."""

    path: Path
    size_bytes: int
    reason: str


class Plan(Value):
    """What is removed, in this order, and by how much the limits are exceeded after that."""

    removals: tuple[Removal, ...] = ()
    missing_bytes: int = 0


def policy_of(store: Store) -> Policy:
    """Return the policy that is configured.

    Raises:
        InvalidArgument: a size cannot be read.
    """
    return Policy(
        quota_bytes=parse_size(store.quota) if store.quota else None,
        keep_last=store.keep_last or None,
        ttl_s=store.ttl or None,
        min_free_bytes=parse_size(store.min_free) if store.min_free else None,
    )


def changed(policy: Policy, options: PruneOptions) -> Policy:
    """Return the policy with what the options of a prune give."""
    return Policy(
        quota_bytes=policy.quota_bytes if options.quota_bytes is None else options.quota_bytes,
        keep_last=options.keep_last or policy.keep_last,
        ttl_s=options.older_than_s or policy.ttl_s,
        min_free_bytes=policy.min_free_bytes,
    )


def decide(
    images: Sequence[StoredImage],
    policy: Policy,
    now: datetime,
    space: Space,
    *,
    only_for_room: bool = False,
) -> Plan:
    """Decide what is removed: what has expired, what is beyond the last ones, then the least used.

    With `only_for_room` it ends as soon as there is room, also with images that have expired. If
    the limits cannot be kept, images are not removed for them in vain.
    """
    missing = _missing(images, policy, space)
    due = []
    for one in _due(images, policy, now):
        if only_for_room and missing <= 0:
            break
        due.append(one)
        missing -= one.size_bytes
    gone = {one.path for one in due}
    unused = _least_used([one for one in images if one.path not in gone], missing)
    missing -= sum(one.size_bytes for one in unused)
    return Plan(removals=(*due, *unused), missing_bytes=max(0, missing))


def _least_used(images: Iterable[StoredImage], missing_bytes: int) -> list[Removal]:
    """Return the removals that make this much room; none if all of them would not."""
    found: list[Removal] = []
    removable = (one for one in images if one.kept is None)
    for image in sorted(removable, key=lambda one: one.used_at):
        if missing_bytes <= 0:
            break
        reason = f"frees space; last used {image.used_at.strftime(_TIME)}"
        found.append(Removal(path=image.path, size_bytes=image.size_bytes, reason=reason))
        missing_bytes -= image.size_bytes
    return found if missing_bytes <= 0 else []


def _missing(images: Iterable[StoredImage], policy: Policy, space: Space) -> int:
    """Return how much must be removed to keep the limits; negative if there is room."""
    missing = []
    if policy.quota_bytes is not None:
        used = sum(one.size_bytes for one in images) + space.unfinished_bytes
        missing.append(used + space.needed_bytes - policy.quota_bytes)
    if policy.min_free_bytes is not None:
        coming = space.unwritten_bytes + space.needed_bytes
        missing.append(policy.min_free_bytes + coming - space.free_bytes)
    return max(missing, default=0)


def _due(images: Sequence[StoredImage], policy: Policy, now: datetime) -> Iterable[Removal]:
    """Yield what has expired, the longest unused first, then what is beyond the last ones."""
    expired = []
    for image in sorted(images, key=lambda one: one.used_at):
        reason = _expiry(image, policy, now)
        if reason is not None and image.kept is None:
            expired.append(image.path)
            yield Removal(path=image.path, size_bytes=image.size_bytes, reason=reason)
    if policy.keep_last is None:
        return
    left = sorted(
        (one for one in images if one.path not in expired),
        key=lambda one: (one.created_at, one.path),
        reverse=True,
    )
    last = _last(left, policy.keep_last)
    for image in reversed(left):
        if image.kept is None and image.path not in last:
            reason = f"not among the last {policy.keep_last} of {', '.join(image.groups)}"
            yield Removal(path=image.path, size_bytes=image.size_bytes, reason=reason)


def _expiry(image: StoredImage, policy: Policy, now: datetime) -> str | None:
    if image.expires_at is not None and image.expires_at <= now:
        return f"expired {image.expires_at.strftime(_TIME)}"
    if policy.ttl_s is not None and image.used_at + timedelta(seconds=policy.ttl_s) <= now:
        return f"last used {image.used_at.strftime(_TIME)}, longer ago than {policy.ttl_s:g} s"
    return None


def _last(newest_first: Iterable[StoredImage], number: int) -> set[Path]:
    """Return the newest images of each group."""
    counts: dict[str, int] = {}
    found = set()
    for image in newest_first:
        for group in image.groups:
            counts[group] = counts.get(group, 0) + 1
            if counts[group] <= number:
                found.add(image.path)
    return found


def over(missing_bytes: int, images: Iterable[StoredImage], policy: Policy) -> str:
    """Describe why there is no room: the limits, and what may not be removed."""
    limits = []
    if policy.quota_bytes is not None:
        limits.append(f"a quota of {size(policy.quota_bytes)}")
    if policy.min_free_bytes is not None:
        limits.append(f"{size(policy.min_free_bytes)} of the disk kept free")
    kept: dict[str, list[StoredImage]] = {}
    for image in images:
        if image.kept is not None:
            kept.setdefault(image.kept, []).append(image)
    parts = [
        f"{len(some)} {'image is' if len(some) == 1 else 'images are'} {why} "
        f"({size(sum(one.size_bytes for one in some))})"
        for why, some in sorted(kept.items())
    ]
    text = f"{size(missing_bytes)} too much for {' and '.join(limits)}"
    return "; ".join((text, *parts))
