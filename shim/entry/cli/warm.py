"""Commands on images with names: warm ls, show, drop, save."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from shim.entry.cli.params import NAME, TASK
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.host.text import printable

if TYPE_CHECKING:
    from shim.image.name_view import NamedImageView, NameView
    from shim.image.named_use import Reason

_COUNTERS = ("HITS", "MISSES", "REFUSALS", "SAVES", "SKIPS", "FAILURES")
_HEAD = ("NAME", "IMAGES", "SIZE", *_COUNTERS)
_USE_HEAD = ("NAME", *_COUNTERS)
_REASON_HEAD = ("LAST", "OUTCOME", "COUNT", "REASON")
_TIME = "%Y-%m-%d %H:%M:%S"
_SHOWN = 100

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
    """List the names in a namespace, and how often they were used.

    A name of pods is shown below their Kubernetes namespace: NAMESPACE/NAME.
    """
    with settings.client() as client:
        found = client.names()
    rows = [(_full(view), len(view.images), size(view.size_bytes), *_use(view)) for view in found]
    text = "\n".join(_full(view) for view in found) if quiet else table(_HEAD, rows)
    settings.show(found, text)


def _full(view: NameView) -> str:
    if view.kubernetes_namespace is None:
        return view.name
    return f"{view.kubernetes_namespace}/{view.name}"


@click.command("show")
@_kubernetes
@click.argument("name", type=NAME)
@pass_settings
def show(settings: Settings, name: str, kubernetes_namespace: str | None) -> None:
    """Print how a name was used, and what its images were made from."""
    with settings.client() as client:
        view = client.show_name(name, kubernetes_namespace=kubernetes_namespace)
    blocks = [table(_USE_HEAD, [(_full(view), *_use(view))])]
    if view.use.reasons:
        blocks.append(table(_REASON_HEAD, map(_reason, view.use.reasons)))
    blocks += map(_image, view.images)
    settings.show(view, "\n\n".join(blocks))


def _use(view: NameView) -> tuple[int, ...]:
    use = view.use
    return (use.hits, use.misses, use.refusals, use.saves, use.skips, use.failures)


def _reason(reason: Reason) -> tuple[object, ...]:
    what = reason.outcome.name.lower()
    return (reason.last.strftime(_TIME), what, reason.count, reason.text)


def _image(image: NamedImageView) -> str:
    """List what is known of an image and what it was made from, below its path."""
    facts = {
        "size": size(image.size_bytes),
        "created": image.created_at.strftime(_TIME),
        "digest": image.digest or "none: the image is damaged",
        **{name: printable(_words(part), _SHOWN) for name, part in sorted(image.parts.items())},
    }
    width = max(map(len, facts))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in facts.items() if text]
    return "\n".join(printable(line) for line in (image.path, *lines))


def _words(part: Any) -> str:
    """Return a part of a fingerprint as a user writes it: without quotes and empty fields."""
    if part in (None, [], {}):
        return ""
    if isinstance(part, str):
        return part
    if isinstance(part, list) and all(isinstance(one, str) for one in part):
        return shlex.join(part)
    if isinstance(part, dict):
        fields = ((name, _words(value)) for name, value in part.items())
        return ", ".join(f"{name} {text}" for name, text in fields if text)
    return json.dumps(part)


@click.command("drop")
@_kubernetes
@click.argument("name", type=NAME)
@pass_settings
def drop(settings: Settings, name: str, kubernetes_namespace: str | None) -> None:
    """Delete the images and counters of a name; the next start is cold."""
    with settings.client() as client:
        number = client.drop_name(name, kubernetes_namespace=kubernetes_namespace)
    settings.show({"name": name, "images": number}, "")


@click.command("save")
@click.argument("name", type=NAME)
@click.argument("task", type=TASK)
@pass_settings
def save(settings: Settings, name: str, task: str) -> None:
    """Save a task, which keeps running, under a name of its namespace.

    Containers of the same template that have the name in an annotation are then restored from it.
    """
    with settings.client() as client, Renderer() as renderer:
        made = client.save_name(task, name, renderer.report)
    settings.show(made, made.image_path)
    renderer.print_others(made.warnings)


COMMANDS = (ls, show, drop, save)
