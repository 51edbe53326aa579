"""Commands on the image store: checkpoints tag, pin, unpin."""

from __future__ import annotations

import click

from shim.entry.cli.params import DURATION, REF
from shim.entry.cli.settings import Settings, pass_settings


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


COMMANDS = (tag, pin, unpin)
