"""Options of a restore that each copy of an image may have of its own, with --count by templates.

In a template {i} stands for the number of the copy, from 1, and {id} for its id.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from shim.entry.cli import env_file
from shim.entry.cli.params import PATH
from shim.model import MemberOptions, RestoreOptions, Stdio

_NUMBER, _ID = "{i}", "{id}"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What the options say; `count` is None for one restore without templates."""

    count: int | None
    at_once: int
    template: str
    hostname: str
    netns: str
    env_file: str

    def each(self, task: str | None, options: RestoreOptions) -> dict[str, RestoreOptions]:
        """Return the options of each clone, or of the single restore, by its id.

        Raises:
            UsageError: there is no name, or several clones would share what is of one alone.
        """
        if self.count is None:
            return {self._only(task): self._single(options)}
        template = self._name(task)
        self._check_shared(options)
        numbers = range(1, self.count + 1)
        ids = {number: template.replace(_NUMBER, str(number)) for number in numbers}
        return {name: self._of(number, name, options) for number, name in ids.items()}

    def _only(self, task: str | None) -> str:
        if self.template or self.at_once:
            message = "--name-template and --at-once need --count"
            raise click.UsageError(message)
        if not task:
            message = "Missing argument 'TASK'."
            raise click.UsageError(message)
        return task

    def _single(self, options: RestoreOptions) -> RestoreOptions:
        return msgspec.structs.replace(
            options,
            hostname=self.hostname,
            netns=self.netns,
            env=env_file.read(self.env_file) if self.env_file else (),
        )

    def _name(self, task: str | None) -> str:
        if task and self.template:
            message = "give TASK or --name-template, not both"
            raise click.UsageError(message)
        template = self.template or (f"{task}-{_NUMBER}" if task else "")
        if _NUMBER not in template:
            message = f"--count needs TASK, or a --name-template with {_NUMBER}"
            raise click.UsageError(message)
        return template

    def _check_shared(self, options: RestoreOptions) -> None:
        stdio = options.stdio
        own = {
            "--stdin": stdio.stdin,
            "--stdout": stdio.stdout,
            "--stderr": stdio.stderr,
            "--netns": self.netns,
            **{f"--member {one.saved}": one.id for one in options.members},
        }
        for name, text in own.items():
            if text and self.count != 1 and _NUMBER not in text and _ID not in text:
                message = f"{name} {text} would be that of all clones: add {_NUMBER} or {_ID}"
                raise click.UsageError(message)

    def _of(self, number: int, name: str, options: RestoreOptions) -> RestoreOptions:
        """Return the options of the clone with this number and id."""

        def filled(text: str) -> str:
            return text.replace(_NUMBER, str(number)).replace(_ID, name)

        stdio = options.stdio
        return msgspec.structs.replace(
            options,
            bundle=filled(options.bundle),
            stdio=Stdio(
                stdin=filled(stdio.stdin),
                stdout=filled(stdio.stdout),
                stderr=filled(stdio.stderr),
                terminal=stdio.terminal,
            ),
            members=tuple(
                MemberOptions(
                    saved=one.saved, id=filled(one.id), bundle=filled(one.bundle), stdio=one.stdio
                )
                for one in options.members
            ),
            hostname=filled(self.hostname or _ID),
            netns=filled(self.netns),
            env=env_file.read(filled(self.env_file)) if self.env_file else (),
        )


_OPTIONS = (
    click.option("--hostname", default="", help="new hostname [default with --count: the id]"),
    click.option("--netns", type=PATH, default="", help="path of a network namespace to join"),
    click.option(
        "--env-file",
        type=PATH,
        default="",
        help="file with lines NAME=value, for containers with io.cryo.instance",
    ),
    click.option("--count", type=click.IntRange(1, 1024), help="restore it as this many tasks"),
    click.option("--name-template", default="", help="ids of the tasks, such as 'job-{i}'"),
    click.option(
        "--at-once",
        type=click.IntRange(1, 1024),
        default=None,
        help="how many are loaded at the same time [default: 8 for each CPU]",
    ),
)


def copy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add these options to a command, which gets them as `copies`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        count: int | None,
        at_once: int | None,
        name_template: str,
        hostname: str,
        netns: str,
        env_file: str,
        **others: Any,
    ) -> None:
        copies = Copies(
            count=count,
            at_once=at_once or 0,
            template=name_template,
            hostname=hostname,
            netns=netns,
            env_file=env_file,
        )
        command(*args, copies=copies, **others)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
