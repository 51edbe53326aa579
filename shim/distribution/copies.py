"""Copies of images between this host and a place: opens the place and the keys, and closes them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from shim.distribution import keys, pull, push
from shim.distribution.opening import open_place
from shim.distribution.reference import Reference, RegistryRef
from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import PullOptions, PullTarget, PushOptions, Transfer
from shim.model import Report


def send(image: Path, to: Reference, settings: TransferSettings, report: Report) -> Transfer:
    """Copy an image to a place, under the tag of the reference. Blocks; `report` may cancel it.

    Raises:
        CryoError: it was not copied; the tag is as it was.
    """
    options = PushOptions(
        jobs=settings.jobs, compress=settings.compress, cipher=keys.for_push(settings.keys)
    )
    with contextlib.closing(open_place(to, settings, to_write=True)) as place:
        return push.push(image, place, to.tag, options, report)


def fetch(
    source: Reference, target: PullTarget, settings: TransferSettings, report: Report
) -> Transfer:
    """Copy an image from a place to this host. Blocks; `report` may cancel it.

    Raises:
        CryoError: it was not copied; what was fetched is used by the next call.
    """
    options = PullOptions(jobs=settings.jobs, keys=settings.keys)
    wanted = source.digest if isinstance(source, RegistryRef) else None
    with contextlib.closing(open_place(source, settings, to_write=False)) as place:
        return pull.pull(place, str(source), wanted or source.tag, target, options, report)
