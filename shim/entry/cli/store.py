"""Commands on the image store: checkpoints tag, pin, unpin, prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shim.entry.cli.params import DURATION, REF, SIZE
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.host.text import printable

if TYPE_CHECKING:
    from shim.image.eviction import Pruned

_HEAD = ("IMAGE", "SIZE", "REASON")


@click.command("tag")
@click.option("--remove", is_flag=True, help="take the name from the image, which stays")
@click.option(
    "--ttl", "ttl_s", type=DURATION, default=0.0, help="let the image be removed after this time"
)
@click.argument("image", type=REF)
@click.argument("name")
@pass_settings
def tag(settings: Settings, image: str, name: str, ttl_s: float, *, remove: bool) -> None:
    """Give an image a name of the namespace, as NAME or NAME:TAG.

    IMAGE is a path or another name. An image that has the name loses it. A name may stand wherever
    a command takes the path of an image. Prints the path of the image.
    """
    if remove and ttl_s:
        message = "--ttl cannot be used with --remove"
        raise click.UsageError(message)
    with settings.client() as client:
        path = client.untag(image, name) if remove else client.tag(image, name, ttl_s=ttl_s)
    settings.show({"image": path, "name": name}, path)


@click.command("pin")
@click.argument("images", type=REF, nargs=-1, required=True, metavar="IMAGE...")
@pass_settings
def pin(settings: Settings, images: tuple[str, ...]) -> None:
    """Keep images from being removed.

    Prints their paths.
    """
    with settings.client() as client:
        paths = [client.pin(image) for image in images]
    settings.show({"pinned": paths}, "\n".join(paths))


@click.command("unpin")
@click.argument("images", type=REF, nargs=-1, required=True, metavar="IMAGE...")
@pass_settings
def unpin(settings: Settings, images: tuple[str, ...]) -> None:
    """Let pinned images be removed again. Prints their paths."""
    with settings.client() as client:
        paths = [client.unpin(image) for image in images]
    settings.show({"unpinned": paths}, "\n".join(paths))


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="remove nothing; print what would be removed")
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    help="keep only the newest of each name, or of each task [default: store.keep_last]",
)
@click.option(
    "--older-than",
    "older_than_s",
    type=DURATION,
    help="remove what was not used for this long [default: store.ttl]",
)
@click.option(
    "--quota",
    "quota_bytes",
    type=SIZE,
    help="size of all images, such as 200GiB [default: store.quota]",
)
@pass_settings
def prune(
    settings: Settings,
    keep_last: int | None,
    older_than_s: float | None,
    quota_bytes: int | None,
    *,
    dry_run: bool,
) -> None:
    """Remove the images that are not to be kept.

    What is kept is in [store] of the sidecar's config.toml, which the options override. Pinned
    images and images in use stay. Prints the removed images, and the reason for each.
    """
    with settings.client() as client:
        pruned = client.prune(
            dry_run=dry_run,
            keep_last=keep_last,
            older_than_s=older_than_s,
            quota_bytes=quota_bytes,
        )
    rows = [(one.path, size(one.size_bytes), one.reason) for one in pruned.removed]
    settings.show(_plain(pruned), table(_HEAD, rows) if rows else "")
    for one in pruned.kept:
        print(printable(f"kept {one.path}: {one.reason}"), file=sys.stderr)
    total = size(sum(one.size_bytes for one in pruned.removed))
    verb = "would be removed" if dry_run else "removed"
    noun = "image" if len(rows) == 1 else "images"
    print(f"{len(rows)} {noun} {verb}, {total}", file=sys.stderr)
    if pruned.missing_bytes:
        text = f"{size(pruned.missing_bytes)} too much is left: what can be removed is not enough"
        print(f"warning: {text}", file=sys.stderr)


def _plain(pruned: Pruned) -> dict[str, Any]:
    removed = [
        {"path": str(one.path), "size_bytes": one.size_bytes, "reason": one.reason}
        for one in pruned.removed
    ]
    kept = [{"path": str(one.path), "reason": one.reason} for one in pruned.kept]
    return {"removed": removed, "kept": kept, "missing_bytes": pruned.missing_bytes}


COMMANDS = (tag, pin, unpin, prune)
