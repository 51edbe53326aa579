"""Commands that copy images: checkpoints push, pull, export, import."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shim.entry.cli.params import PATH, REF
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.transfer_options import (
    archive_read_options,
    archive_write_options,
    read_options,
    settings_of,
    write_options,
)
from shim.host.sizes import size
from shim.host.text import printable

if TYPE_CHECKING:
    from shim.distribution.transfer import Transfer, Transferred

_ARCHIVE = "oci-archive:"
_SCHEMES_OF_PATHS = (_ARCHIVE, "oci:")


@click.command("push")
@write_options
@click.argument("image", type=REF)
@click.argument("reference")
@pass_settings
def push(settings: Settings, /, image: str, reference: str, *, transfer: Mapping[str, Any]) -> None:
    """Copy an image to a registry, a bucket, or an OCI layout or archive. Prints its digest.

    REFERENCE is HOST/REPOSITORY[:TAG], s3://BUCKET/PREFIX[:TAG], oci:FOLDER[:TAG] or
    oci-archive:FILE[:TAG]. Chunks that it has already are not sent again.

    Credentials are those of `docker login`, or the variables AWS_*.
    """
    with settings.client() as client, Renderer() as renderer:
        result = client.push(
            image, absolute(reference), settings_of(transfer), on_progress=renderer.report
        )
    settings.show(result, result.digest)
    _summary(result, f"push of {image}")


@click.command("pull")
@read_options
@click.option("--name", help="name of the image [default: the end of the reference, with its tag]")
@click.option("--warm", help="make it an image for the warm starts of this name instead")
@click.option(
    "-k",
    "--kubernetes-namespace",
    help="Kubernetes namespace of the pods that use the name of --warm [default: none]",
)
@click.argument("reference")
@pass_settings
def pull(
    settings: Settings,
    /,
    reference: str,
    name: str | None,
    warm: str | None,
    kubernetes_namespace: str | None,
    *,
    transfer: Mapping[str, Any],
) -> None:
    """Copy an image from where `push` has put it to this host. Prints its path.

    After an interruption the next pull continues. Chunks that another image of this host has are
    not fetched again.
    """
    if name is not None and warm is not None:
        message = "--name cannot be used with --warm"
        raise click.UsageError(message)
    if kubernetes_namespace is not None and warm is None:
        message = "--kubernetes-namespace needs --warm"
        raise click.UsageError(message)
    result = pulled(
        settings,
        reference,
        transfer,
        name=name,
        warm=warm,
        kubernetes_namespace=kubernetes_namespace,
    )
    settings.show(result, result.image_path)


@click.command("export")
@archive_write_options
@click.argument("image", type=REF)
@click.argument("file", type=PATH)
@pass_settings
def export(settings: Settings, /, image: str, file: str, *, transfer: Mapping[str, Any]) -> None:
    """Write an image to a new file, a tar of an OCI layout. Prints the digest.

    It needs no sidecar if IMAGE is a path.
    """
    from shim.distribution import copies, reference

    made, to = settings_of(transfer), reference.parse(_ARCHIVE + file)
    with Renderer() as renderer:
        result = settings.with_image(
            [image],
            lambda client: client.push(image, str(to), made, on_progress=renderer.report),
            lambda: copies.send(Path(image), to, made, renderer.report),
        )
    settings.show(result, result.digest)
    _summary(result, f"export of {image}")


@click.command("import")
@archive_read_options
@click.option("--name", help="name of the image [default: that of the file, with its tag]")
@click.argument("file", type=PATH)
@pass_settings
def import_(
    settings: Settings, /, file: str, name: str | None, *, transfer: Mapping[str, Any]
) -> None:
    """Copy the image in a file that `export` has written to this host. Prints its path."""
    result = pulled(settings, _ARCHIVE + file, transfer, name=name)
    settings.show(result, result.image_path)


def pulled(
    settings: Settings,
    reference: str,
    transfer: Mapping[str, Any],
    *,
    name: str | None = None,
    warm: str | None = None,
    kubernetes_namespace: str | None = None,
) -> Transferred:
    """Pull an image, and print a summary; see `Client.pull`."""
    with settings.client() as client, Renderer() as renderer:
        result = client.pull(
            absolute(reference),
            settings_of(transfer),
            on_progress=renderer.report,
            name=name,
            warm=warm,
            kubernetes_namespace=kubernetes_namespace,
        )
    _summary(result, f"pull of {reference}")
    return result


def absolute(reference: str) -> str:
    """Return a reference with its path absolute, if it has one: the sidecar runs elsewhere."""
    for scheme in _SCHEMES_OF_PATHS:
        if reference.startswith(scheme):
            return scheme + PATH.convert(reference.removeprefix(scheme), None, None)
    return reference


def _summary(result: Transfer, text: str) -> None:
    """Print a summary on stderr; stdout is for programs."""
    copied = f"{size(result.bytes_moved)} copied, {size(result.bytes_reused)} were there"
    line = f"{text}: {size(result.bytes_total)}, {copied}, {result.seconds:.2f} s"
    print(printable(line), file=sys.stderr)


COMMANDS = (push, pull, export, import_)
