"""Types of option values: durations, signals, device maps, paths, images."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import click

from shim.errors import CryoError
from shim.host.sizes import parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIGNAL_MAX = 64
# The file that makes a folder an image; its module is not loaded for this.
_MANIFEST = "cryo.json"


class Duration(click.ParamType[float]):
    """A time such as 30s, 1m30s, 500ms, 7d or 2.5; plain numbers are seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        text = str(value)
        parts = _PART.findall(text)
        if "".join(number + unit for number, unit in parts) != text or not text:
            self.fail(f"{text!r} is not a duration: write 30s, 1m30s or 500ms", param, ctx)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        return seconds or self.fail("a duration must be greater than 0", param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes such as 200GiB."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes."""
        try:
            return parse_size(str(value))
        except CryoError as error:
            self.fail(f"{error.message}: {error.remedy}", param, ctx)


class Signal(click.ParamType[int]):
    """A signal by name, with or without SIG, or by number."""

    name = "signal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number."""
        text = str(value).upper()
        if text.isdecimal() and 0 < int(text) <= _SIGNAL_MAX:
            return int(text)
        try:
            return int(signal.Signals["SIG" + text.removeprefix("SIG")])
        except KeyError:
            self.fail(f"{value!r} is not a signal", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Complete its name."""
        from shim.entry.cli import completing

        return completing.signals(ctx, param, incomplete)


class Known(click.ParamType[str]):
    """Text whose values the sidecar knows; a function of `completing` lists them for the shell."""

    name = "text"

    def __init__(self, listed_by: str) -> None:
        self._listed_by = listed_by

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Complete it."""
        from shim.entry.cli import completing

        found: list[CompletionItem[str]] = getattr(completing, self._listed_by)(
            ctx, param, incomplete
        )
        return found


class AbsolutePath(click.ParamType[str]):
    """A path on this host, made absolute: the sidecar has another working directory."""

    name = "path"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,  # noqa: ARG002  # click's signature
        ctx: click.Context | None,  # noqa: ARG002  # see above
    ) -> str:
        """Return it absolute; the sidecar checks links and `..`."""
        text = str(value)
        return text if not text or text.startswith("/") else f"{os.getcwd()}/{text}"  # noqa: PTH109  # Path normalizes

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Let the shell complete it."""
        from shim.entry.cli import completing

        return completing.paths(ctx, param, incomplete)


class ImageReference(click.ParamType[str]):
    """A path or a name of an image.

    It is a path if it begins with `/` or `.`, or is an image in the working directory.
    """

    name = "image"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return a path absolute, and a name as it is; the sidecar checks both."""
        text = str(value)
        is_path = text.startswith((".", "/")) or os.path.lexists(f"{text}/{_MANIFEST}")
        return PATH.convert(text, param, ctx) if is_path else text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Complete a name, and let the shell complete a path."""
        from shim.entry.cli import completing

        return completing.images(ctx, param, incomplete)


class TaskOrImage(ImageReference):
    """The id of a task, or a path or a name of an image."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Complete an id or a name, and let the shell complete a path."""
        from shim.entry.cli import completing

        return completing.tasks_or_images(ctx, param, incomplete)


class Pair(click.ParamType[tuple[str, str]]):
    """Two values separated by `=`; the second may be a path."""

    def __init__(self, name: str, second: click.ParamType[str]) -> None:
        self.name = name
        self._second = second

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both."""
        first, _, second = str(value).partition("=")
        if not first or not second:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return first, str(self._second.convert(second, param, ctx))


class DeviceMap(click.ParamType[dict[str, str]]):
    """Pairs old=new of GPU UUIDs, separated by commas."""

    name = "old=new,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """Return new UUIDs by old."""
        if isinstance(value, dict):
            return value
        pairs = [pair.partition("=") for pair in str(value).split(",")]
        found = {old.strip(): new.strip() for old, _, new in pairs}
        if len(found) != len(pairs) or not all(old and new for old, new in found.items()):
            self.fail(f"{value!r}: write OLD=NEW,OLD=NEW with each GPU once", param, ctx)
        return found


DURATION = Duration()
TASK = Known("tasks")
NAME = Known("names")
SIGNAL = Signal()
PATH = AbsolutePath()
SIZE = Size()
REF = ImageReference()
TASK_OR_REF = TaskOrImage()
DEVICE_MAP = DeviceMap()
RENAME = Pair("old=new", click.STRING)
ANNOTATION = Pair("key=value", click.STRING)
PLACE = Pair("old=path", PATH)
