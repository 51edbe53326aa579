"""Maps the containers of an image to task ids, with optional overrides."""

from __future__ import annotations

from collections import Counter

from shim.errors import InvalidArgument
from shim.image.manifest import Manifest
from shim.model import MemberOptions, RestoreOptions, TaskRef, check_id


def members_wanted(
    manifest: Manifest, ref: TaskRef, options: RestoreOptions
) -> tuple[MemberOptions, ...]:
    """Give each member of the image its new id, in the image's order.

    Raises:
        InvalidArgument: an id is of no member of the image, is no id, or would be there twice; or
            some containers have a bundle of the caller's and some have not.
    """
    asked = {one.saved: one for one in options.members}
    there = {one.task for one in manifest.members}
    if unknown := sorted(set(asked) - there):
        message = f"the image has no member {', '.join(unknown)}; it has {_names(there)}"
        raise InvalidArgument(message, remedy="'cryo checkpoints inspect' names its members")
    wanted = tuple(
        _with_id(asked.get(one.task, MemberOptions(saved=one.task))) for one in manifest.members
    )
    _check_once([ref.id, *(one.id for one in wanted)])
    _check_bundles(options, wanted)
    return wanted


def _check_bundles(options: RestoreOptions, wanted: tuple[MemberOptions, ...]) -> None:
    """See that all specs are the caller's or all the image's: his own is no word for the others'.

    An image can have members that the caller knows nothing of, and gives each what it likes.
    """
    without = [one.saved for one in wanted if not one.bundle]
    if options.bundle and without:
        message = (
            f"the image has other containers, which would bring config.json files of its own "
            f"beside your bundle: {', '.join(without)}"
        )
        raise InvalidArgument(
            message, remedy="give each a bundle with --member-bundle, or leave out --bundle"
        )
    if not options.bundle and len(without) < len(wanted):
        given = ", ".join(one.saved for one in wanted if one.bundle)
        message = f"{given} would have a bundle of yours, and the image's own task would not"
        raise InvalidArgument(message, remedy="give --bundle too, or leave out --member-bundle")


def _with_id(one: MemberOptions) -> MemberOptions:
    return MemberOptions(
        saved=one.saved,
        id=check_id("task id", one.id or one.saved),
        bundle=one.bundle,
        stdio=one.stdio,
    )


def _names(ids: set[str]) -> str:
    return ", ".join(sorted(ids)) or "none"


def _check_once(ids: list[str]) -> None:
    twice = sorted(one for one, count in Counter(ids).items() if count > 1)
    if twice:
        message = f"several containers would become task {', '.join(twice)}"
        raise InvalidArgument(message, remedy="give each member an id of its own")
