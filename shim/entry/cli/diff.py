"""The command checkpoints diff: how two images differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import REF
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.host.sizes import size
from shim.host.text import printable

if TYPE_CHECKING:
    from shim.distribution.image_diff import FileChange, ImageDiff
    from shim.image.plain_diff import Change, ContainerChanges


@click.command("diff")
@click.argument("old", type=REF)
@click.argument("new", type=REF)
@pass_settings
def diff(settings: Settings, old: str, new: str) -> None:
    """Show how two images differ.

    Compares the manifests, the config.json of each container, and the files. Of environment
    variables only the names are shown. The bytes with equal content are those that a push of NEW
    does not send where OLD is.
    """
    from shim.distribution import image_diff

    with Renderer() as renderer:
        found = settings.with_image(
            [old, new],
            lambda client: client.diff(old, new, on_progress=renderer.report),
            lambda: image_diff.compare(Path(old), Path(new), renderer.report),
        )
    settings.show(found, "\n".join(map(printable, _lines(found))))


def _lines(found: ImageDiff) -> Iterator[str]:
    yield from _changes(found.manifest)
    for container in found.containers:
        yield from _container(container)
    yield from map(_file, found.files)
    yield (
        f"equal content: {size(found.shared_bytes)} of {size(found.old_bytes)} and "
        f"{size(found.new_bytes)}"
    )


def _changes(changes: Iterable[Change], indent: str = "") -> Iterator[str]:
    return (f"{indent}{one.field}: {one.old or '-'} -> {one.new or '-'}" for one in changes)


def _container(found: ContainerChanges) -> Iterator[str]:
    yield f"container {found.name}:"
    yield from _changes(found.spec, "  ")
    for what, names in (
        ("added", found.added),
        ("removed", found.removed),
        ("changed", found.changed),
    ):
        if names:
            yield f"  environment {what}: {', '.join(names)}"


def _file(found: FileChange) -> str:
    old, new = (
        "-" if one is None else f"{one} bytes" for one in (found.old_bytes, found.new_bytes)
    )
    return f"{found.name}: {old} -> {new}, equal content {size(found.shared_bytes)}"


COMMANDS = (diff,)
