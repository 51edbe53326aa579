"""Maps the containers of an image to task ids, with optional overrides."""

from __future__ import annotations

from collections import Counter

from shim.errors import InvalidArgument
from shim.image.manifest import Manifest
from shim.model import MemberOptions, RestoreOptions, TaskRef, check_id


def resolve_members(
    manifest: Manifest, ref: TaskRef, options: RestoreOptions
) -> tuple[MemberOptions, ...]:
    """Return the options of each member of the image, with its new id, in the image's order.

    Raises:
        InvalidArgument: an id is not a member of the image, is not valid, or is used twice; or
            only some of the containers have a bundle from the caller.
    """
    given = {one.saved: one for one in options.members}
    known = {one.task for one in manifest.members}
    if unknown := sorted(set(given) - known):
        names = ", ".join(sorted(known)) or "none"
        message = f"the image has no member {', '.join(unknown)}; it has {names}"
        raise InvalidArgument(message, remedy="'cryo checkpoints inspect' names its members")
    mapped = tuple(
        _with_id(given.get(one.task, MemberOptions(saved=one.task))) for one in manifest.members
    )
    _check_unique([ref.id, *(one.id for one in mapped)])
    _check_bundles(options, mapped)
    return mapped


def _with_id(one: MemberOptions) -> MemberOptions:
    return MemberOptions(
        saved=one.saved,
        id=check_id("task id", one.id or one.saved),
        bundle=one.bundle,
        stdio=one.stdio,
    )


def _check_unique(ids: list[str]) -> None:
    duplicates = sorted(one for one, count in Counter(ids).items() if count > 1)
    if duplicates:
        message = f"several containers would become task {', '.join(duplicates)}"
        raise InvalidArgument(message, remedy="give each member a unique id")


def _check_bundles(options: RestoreOptions, mapped: tuple[MemberOptions, ...]) -> None:
    """Check that all specs are the caller's or all are the image's.

    Otherwise a caller who trusts only their own specs could run those of unexpected members.
    """
    without = [one.saved for one in mapped if not one.bundle]
    if options.bundle and without:
        message = (
            f"the image has other containers, which would use the config.json of the image "
            f"beside your bundle: {', '.join(without)}"
        )
        raise InvalidArgument(
            message, remedy="give each a bundle with --member-bundle, or leave out --bundle"
        )
    if not options.bundle and len(without) < len(mapped):
        with_bundle = ", ".join(one.saved for one in mapped if one.bundle)
        message = f"{with_bundle} would have a bundle of yours, and the image's own task would not"
        raise InvalidArgument(message, remedy="give --bundle too, or leave out --member-bundle")
