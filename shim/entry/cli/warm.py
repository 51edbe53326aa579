"""Commands on images with names: warm ls, show, drop, save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import size, table
from shim.host.text import printable

if TYPE_CHECKING:
    from shim.image.name_view import NamedImageView, NameView

_HEAD = ("NAME", "IMAGES", "SIZE", "HITS", "MISSES", "REFUSALS", "SAVES", "FAILURES")
_TIME = "%Y-%m-%d %H:%M:%S"
_SHOWN_VALUE = 100

_kubernetes = click.option(
    "-k",
    "--kubernetes-namespace",
    default=None,
    help="Kubernetes namespace of the pods that use the name [default: none]",
)


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="print names only")
@pass_settings
def ls(settings: Settings, *, quiet: bool) -> None:
    """List the names of images in a namespace, and how often they were used.

    A name of pods is shown below their Kubernetes namespace: NAMESPACE/NAME.
    """
    with settings.client() as client:
        found = client.names()
    rows = [
        (_full(view), len(view.images), size(view.size_bytes), *_counts(view)) for view in found
    ]
    text = "\n".join(_full(view) for view in found) if quiet else table(_HEAD, rows)
    settings.show(found, text)


def _full(view: NameView) -> str:
    if view.kubernetes_namespace is None:
        return view.name
    return f"{view.kubernetes_namespace}/{view.name}"


def _counts(view: NameView) -> tuple[int, ...]:
    use = view.use
    return (use.hits, use.misses, use.refusals, use.saves, use.failures)


@click.command("show")
@_kubernetes
@click.argument("name")
@pass_settings
def show(settings: Settings, name: str, kubernetes_namespace: str | None) -> None:
    """Print the images of a name, what each was made from, and how the name was used."""
    with settings.client() as client:
        view = client.show_name(name, kubernetes_namespace=kubernetes_namespace)
    lines = [f"{_full(view)}: {_use(view)}"]
    for reason in view.use.reasons:
        when = reason.last.strftime(_TIME)
        lines.append(f"  {reason.outcome.value}: {reason.count} x, last {when}: {reason.text}")
    for image in view.images:
        lines += _image(image)
    settings.show(view, "\n".join(printable(line) for line in lines))


def _use(view: NameView) -> str:
    names = ("hits", "misses", "refusals", "saves", "skips", "failures")
    return ", ".join(f"{getattr(view.use, name)} {name}" for name in names)


def _image(image: NamedImageView) -> list[str]:
    state = "" if image.digest else ", damaged"
    lines = [f"{image.path}: {size(image.size_bytes)}, {image.created_at.strftime(_TIME)}{state}"]
    for name, value in sorted(image.parts.items()):
        text = value if isinstance(value, str) else json.dumps(value)
        shown = text if len(text) <= _SHOWN_VALUE else text[:_SHOWN_VALUE] + "..."
        lines.append(f"  {name}: {shown}")
    return lines


@click.command("drop")
@_kubernetes
@click.argument("name")
@pass_settings
def drop(settings: Settings, name: str, kubernetes_namespace: str | None) -> None:
    """Delete the images and counters of a name; the next start is cold."""
    with settings.client() as client:
        number = client.drop_name(name, kubernetes_namespace=kubernetes_namespace)
    settings.show({"name": name, "images": number}, "")


@click.command("save")
@click.argument("name")
@click.argument("task")
@pass_settings
def save(settings: Settings, name: str, task: str) -> None:
    """Save the task TASK under a name, in its own namespace; it keeps running.

    Containers of the same kind that name it are then restored from it.
    """
    with settings.client() as client, Renderer() as renderer:
        made = client.save_name(task, name, renderer.report)
    settings.show(made, made.image_path)
    renderer.print_others(made.warnings)


COMMANDS = (ls, show, drop, save)
