"""The command timeline: where the time of operations went."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import TASK_OR_REF
from shim.entry.cli.settings import Settings, pass_settings
from shim.errors import CryoError, NotFound, Unavailable

if TYPE_CHECKING:
    from shim.client import Client
    from shim.model import Speeds, Timeline

_COLUMNS = 80


@click.command("timeline")
@click.option(
    "--svg",
    "svg_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="also draw it into this file",
)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    help="how many operations of a task to show [default: all that are kept]",
)
@click.option(
    "--no-measure", is_flag=True, help="do not measure disk and memory, which takes a second"
)
@click.argument("target", type=TASK_OR_REF, metavar="IMAGE|TASK")
@pass_settings
def timeline(
    settings: Settings, target: str, svg_path: Path | None, last: int | None, *, no_measure: bool
) -> None:
    """Show where the time of operations went, and what bounds them.

    For a task these are its last checkpoints, restores and parks, also those that failed; for an
    image, given by its path or its name, its checkpoint. Speeds are compared with those of the
    host's disk and memory, which are measured meanwhile.
    """
    found, speeds = _read(settings, target, measures=not no_measure)
    shown = found[-last:] if last else found
    if svg_path is not None:
        from shim.timeline.svg import svg

        try:
            svg_path.write_text(svg(shown, speeds), "utf-8")
        except OSError as error:
            from shim.host.oserror import typed

            raise typed(error, f"write {svg_path}") from error
    if settings.as_json:
        settings.show(_plain(shown, speeds), "")
    else:
        _print(target, shown, speeds)


def _read(
    settings: Settings, target: str, *, measures: bool
) -> tuple[list[Timeline], Speeds | None]:
    """Ask the sidecar; without one, read an image that is given by its path in this process.

    Raises:
        Unavailable: no sidecar answers, and the target is not a path.
    """
    try:
        with settings.client() as client:
            found = _of(client, target)
            image = found[-1].image_path if found else ""
            return found, client.speeds(image) if measures else None
    except Unavailable:
        if not target.startswith("/"):
            raise
    from shim.image import speeds, timelines

    path = Path(target)
    return [timelines.read(path)], speeds.measure(path.parent) if measures else None


def _of(client: Client, target: str) -> list[Timeline]:
    """Return the timelines of a task of that id, or else of an image.

    Raises:
        NotFound: there is neither.
    """
    if "/" in target or ":" in target:
        return [client.image_timeline(target)]
    try:
        return client.timelines(target)
    except NotFound:
        try:
            return [client.image_timeline(target)]
        except CryoError as error:
            message = f"there is neither a task nor an image {target}"
            remedy = "see cryo tasks ls and cryo checkpoints ls"
            raise NotFound(message, remedy=remedy) from error


def _print(target: str, shown: list[Timeline], speeds: Speeds | None) -> None:
    from shim.host.text import printable
    from shim.timeline.style import Style
    from shim.timeline.terminal import text

    if not shown:
        print(printable(f"no checkpoint, restore or park of {target} is recorded"))
        return
    style = Style.of(sys.stdout)
    import shutil

    width = shutil.get_terminal_size((_COLUMNS, 24)).columns if style.live else _COLUMNS
    print(text(shown, speeds, style, width))


def _plain(shown: list[Timeline], speeds: Speeds | None) -> dict[str, object]:
    import msgspec

    from shim.timeline.bounds import bounds, shares

    return {
        "speeds": msgspec.to_builtins(speeds),
        "timelines": [
            {
                **msgspec.to_builtins(one),
                "total_s": one.total_s,
                "bounds": msgspec.to_builtins(bounds(one, speeds)),
                "shares": msgspec.to_builtins(shares(one)),
            }
            for one in shown
        ],
    }


COMMANDS = (timeline,)
