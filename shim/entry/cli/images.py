"""Commands on images: checkpoints ls, inspect, verify, delete."""

from __future__ import annotations

import json
from typing import Any

import click

from shim.entry.cli.params import REF
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.host.text import printable
from shim.model import ImageView, Verify

_HEAD = ("IMAGE", "TASK", "CREATED", "SIZE", "ENGINE", "PROCESSES", "NAMES", "PIN", "EXPIRES")
_TIME = "%Y-%m-%d %H:%M:%S"


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="print paths only")
@pass_settings
def ls(settings: Settings, *, quiet: bool) -> None:
    """List the images in the sidecar's image directory, newest first."""
    with settings.client() as client:
        found = client.images()
    rows = [
        (
            image.path,
            image.task,
            image.created_at.strftime(_TIME),
            size(image.size_bytes),
            image.engine,
            image.processes,
            ", ".join(_names(image, settings.namespace)),
            "pinned" if image.pinned else "",
            image.expires_at.strftime(_TIME) if image.expires_at is not None else "",
        )
        for image in found
    ]
    text = "\n".join(printable(image.path) for image in found) if quiet else table(_HEAD, rows)
    settings.show(found, text)


def _names(image: ImageView, namespace: str) -> list[str]:
    """List the names of an image, those of the own namespace first and as they are used."""
    others = [
        f"{name} (in {inside})"
        for inside, names in sorted(image.names.items())
        for name in names
        if inside != namespace
    ]
    return [*image.names.get(namespace, ()), *others]


@click.command("inspect")
@click.argument("image", type=REF)
@pass_settings
def inspect(settings: Settings, image: str) -> None:
    """Print the manifest of an image, given its path or its name."""
    with settings.client() as client:
        manifest = client.inspect(image)
    settings.show(manifest, json.dumps(manifest, indent=2))


@click.command("verify")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Verify]),
    default=Verify.FULL.value,
    show_default=True,
    help="full reads every byte; auto skips files that are unchanged since the last verification",
)
@click.option(
    "--untrusted-folder", is_flag=True, help="accept an image that users other than root can modify"
)
@click.argument("image", type=REF)
@pass_settings
def verify(settings: Settings, mode: str, image: str, *, untrusted_folder: bool) -> None:
    """Verify that an image is intact and can be restored on this host.

    Lists the containers of the image, with the hooks, mounts and devices of the host that a
    restore without --bundle would give them (hooks only with --image-hooks).
    """
    with settings.client() as client, Renderer() as renderer:
        manifest = client.verify(
            image, Verify(mode), renderer.report, untrusted_folder=untrusted_folder
        )
    settings.show(
        manifest, "\n".join((f"{printable(image)}: {_judged(manifest)}", *_access(manifest)))
    )


def _judged(manifest: dict[str, Any]) -> str:
    if manifest.get("sealed", True):
        return "good"
    return "complete, but not sealed: its content was not verified"


def _access(manifest: dict[str, Any]) -> list[str]:
    """List what of the host each container can access after a restore without --bundle."""
    lines: list[str] = []
    for one in manifest.get("host_access", ()):
        lines.append(f"{one['task']}: root filesystem {one['rootfs']}")
        lines += [
            f"  hook {hook['when']}: {' '.join(hook['args'] or [hook['path']])}"
            for hook in one["hooks"]
        ]
        lines += [
            f"  mount {mount['source']} at {mount['destination']}, "
            + ("writable" if mount["writable"] else "read only")
            for mount in one["mounts"]
        ]
        lines += [f"  device {path}" for path in one["devices"]]
        lines += [f"  namespace {path}" for path in one["namespaces"]]
        lines += ["  network of the host"] if one.get("host_network") else []
    return [printable(line) for line in lines]


@click.command("delete")
@click.argument("images", type=REF, nargs=-1, required=True, metavar="IMAGE...")
@pass_settings
def delete(settings: Settings, images: tuple[str, ...]) -> None:
    """Delete images in the sidecar's image directory, by path or by name.

    An image with several names loses the given one, and is deleted with its last name. A pinned
    image is not deleted.
    """
    with settings.client() as client:
        removed = {image: client.remove(image) for image in images}
    deleted = [image for image in images if removed[image]]
    untagged = [image for image in images if not removed[image]]
    settings.show({"deleted": deleted, "untagged": untagged}, "")


COMMANDS = (ls, inspect, verify, delete)
