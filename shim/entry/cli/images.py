"""Commands on images: checkpoints ls, inspect, verify, delete.

Those that only read an image work without a sidecar too, if they are given its path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shim.entry.cli.params import PATH, REF
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.host.text import printable
from shim.model import ImageView, KeyFile, Verify

if TYPE_CHECKING:
    from shim.image.keys import PublicKey

_HEAD = ("IMAGE", "TASK", "CREATED", "SIZE", "ENGINE", "PROCESSES", "NAMES", "PIN", "EXPIRES")
_FILES_HEAD = ("FILE", "BYTES", "BLAKE3")
_TIME = "%Y-%m-%d %H:%M:%S"


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="print paths only, or names of files")
@click.argument("image", type=REF, required=False)
@pass_settings
def ls(settings: Settings, image: str | None, *, quiet: bool) -> None:
    """List images, or the files of an image.

    Without IMAGE those in the sidecar's image directory are listed, newest first.
    """
    if image is not None:
        _list_files(settings, image, quiet=quiet)
        return
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


def _list_files(settings: Settings, image: str, *, quiet: bool) -> None:
    files = _inspected(settings, image)["files"]
    rows = [(one["name"], one["size_bytes"], one["blake3"]) for one in files]
    names = "\n".join(printable(one["name"]) for one in files)
    settings.show(files, names if quiet else table(_FILES_HEAD, rows))


def _inspected(settings: Settings, image: str) -> dict[str, Any]:
    from shim.image import offline

    return settings.with_image(
        [image], lambda client: client.inspect(image), lambda: offline.inspect(Path(image))
    )


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
    manifest = _inspected(settings, image)
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
@click.option(
    "--key",
    "keys",
    type=PATH,
    multiple=True,
    help="public key; the image must be signed by one of those given",
)
@click.argument("image", type=REF)
@pass_settings
def verify(
    settings: Settings, mode: str, keys: tuple[str, ...], image: str, *, untrusted_folder: bool
) -> None:
    """Verify that an image is intact and can be restored on this host.

    Shows by which keys it is signed, of those given and those under [trust] in config.toml.

    Lists the containers of the image, with the hooks, mounts and devices of the host that a
    restore without --bundle would give them (hooks only with --image-hooks).
    """
    from shim.image import offline

    given = _read_keys(keys)
    texts = tuple(KeyFile(name=key.name, pem=key.pem) for key in given)
    chosen = Verify(mode)
    with Renderer() as renderer:
        manifest = settings.with_image(
            [image],
            lambda client: client.verify(
                image, chosen, renderer.report, untrusted_folder=untrusted_folder, keys=texts
            ),
            lambda: offline.verify(
                Path(image),
                chosen,
                renderer.report,
                required=given,
                untrusted_folder=untrusted_folder,
            ),
        )
    lines = (f"{printable(image)}: {_judged(manifest)}", *_origin(manifest), *_access(manifest))
    settings.show(manifest, "\n".join(lines))


def _read_keys(paths: Iterable[str]) -> tuple[PublicKey, ...]:
    if not paths:
        return ()
    from shim.image import keys

    return tuple(keys.read_public(Path(path)) for path in paths)


def _origin(manifest: dict[str, Any]) -> list[str]:
    """List who signed an image, where it is from, and what was not checked."""
    lines = [f"signed by {one['key']}, id {one['id']}" for one in manifest.get("signed_by", ())]
    if manifest.get("source"):
        lines.append(f"from {manifest['source']}")
    if not manifest.get("host_checked", True):
        lines.append("not checked: whether this host can run it, which needs a sidecar")
    return [printable(line) for line in lines]


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
