"""How the pages of an image are read in a restore: directly, or by way of the page cache."""

from __future__ import annotations

from shim.host import page_cache
from shim.image.manifest import PAGES, Manifest
from shim.image.verify import HeldImage
from shim.model import Direct, RestoreOptions, Value
from shim.runsc.probe import Capabilities
from shim.transaction import preflight
from shim.transaction.restore import loaded_bytes

# Below this share of the pages in the page cache they count as not cached.
_COLD = 0.2
# Above this nothing is left that reading ahead would gain.
_WARM = 0.95


class Pages(Value):
    """What decides how pages are read. `cached_bytes` is None if the kernel does not say.

    `room_bytes` is the memory that is left when the pages are loaded. In the `background` runsc
    reads them while the task runs.
    """

    size_bytes: int
    cached_bytes: int | None
    room_bytes: int
    can_direct: bool
    verified_beside: bool = False
    shared: bool = False
    background: bool = False


class Reading(Value):
    """How pages are read, and why: with O_DIRECT, and whether they are read ahead."""

    direct: bool
    reason: str
    ahead: bool = False


def measure(
    held: HeldImage,
    manifest: Manifest,
    capabilities: Capabilities,
    *,
    verified_beside: bool,
    shared: bool,
    background: bool,
) -> Pages:
    """Measure what decides how the pages of an image are read. Blocks.

    Raises:
        ImageCorrupt: they are missing.
    """
    size_bytes = sum(file.size_bytes for file in manifest.files if file.name == PAGES)
    cached: int | None = 0
    if size_bytes:
        with held.folder.opened(PAGES) as fd:
            cached = page_cache.cached_bytes(fd)
    return Pages(
        size_bytes=size_bytes,
        cached_bytes=cached,
        room_bytes=max(0, preflight.available_bytes() - loaded_bytes(manifest)),
        can_direct=capabilities.direct,
        verified_beside=verified_beside,
        shared=shared,
        background=background,
    )


def plan(
    held: HeldImage,
    manifest: Manifest,
    options: RestoreOptions,
    capabilities: Capabilities,
    *,
    shared: bool = False,
) -> Reading:
    """Measure, and choose how the pages of a verified image are read. Blocks.

    `shared` is whether several restores load it.

    Raises:
        ImageCorrupt: they are missing.
    """
    pages = measure(
        held,
        manifest,
        capabilities,
        verified_beside=held.has_pages_left,
        shared=shared,
        background=options.background,
    )
    return choose(options.direct, pages)


def choose(wanted: Direct, pages: Pages) -> Reading:
    """Choose how pages are read."""
    if wanted is Direct.ON:
        return Reading(direct=True, reason="it was requested")
    if pages.verified_beside:
        return Reading(direct=False, reason=_said(wanted, "their verification reads them"))
    if wanted is Direct.OFF:
        return Reading(direct=False, reason="it was requested", ahead=_gains(pages))
    return _chosen(pages)


def _chosen(pages: Pages) -> Reading:
    if not pages.can_direct:
        reason = "this runsc has no direct I/O for images"
        return Reading(direct=False, reason=reason, ahead=_gains(pages))
    if not pages.size_bytes:
        return Reading(direct=False, reason="the image has no uncompressed pages")
    if pages.cached_bytes is None:
        return Reading(direct=False, reason="this kernel does not say what is in the page cache")
    share = pages.cached_bytes / pages.size_bytes
    cached = f"{share:.0%} of its pages are in the page cache"
    if share >= _COLD:
        return Reading(direct=False, reason=cached, ahead=_gains(pages))
    if pages.shared:
        reason = f"{cached}, and several tasks are restored from it"
        return Reading(direct=False, reason=reason, ahead=_gains(pages))
    if pages.size_bytes > pages.room_bytes:
        reason = f"{cached}, and they do not fit there beside the task"
        return Reading(direct=True, reason=reason)
    reason = f"{cached}, and there is room for them"
    return Reading(direct=False, reason=reason, ahead=_gains(pages))


def _said(wanted: Direct, reason: str) -> str:
    return "it was requested" if wanted is Direct.OFF else reason


def _gains(pages: Pages) -> bool:
    """Whether reading ahead would bring pages into the page cache, and they fit there.

    A restore in the background does not wait for the disk.
    """
    if pages.background or not pages.size_bytes or pages.cached_bytes is None:
        return False
    missing = pages.size_bytes - pages.cached_bytes
    return missing > (1 - _WARM) * pages.size_bytes and missing <= pages.room_bytes
