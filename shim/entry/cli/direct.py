"""The option --direct, which may stand without a value."""

from __future__ import annotations

import itertools

import click

from shim.model import Direct

_NAME = "--direct"
_VALUES = tuple(one.value for one in Direct)

direct_option = click.option(
    _NAME,
    type=click.Choice(_VALUES),
    default=Direct.AUTO.value,
    help="read with O_DIRECT; auto: if few pages are cached, and memory has no room for them "
    "[--direct alone: on]",
)


class DirectCommand(click.Command):
    """A command with that option: a word after it that is no value of it is the next argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the value that a bare --direct stands for."""
        followers = itertools.zip_longest(args, args[1:])
        written = (
            f"{_NAME}={Direct.ON}" if word == _NAME and after not in _VALUES else word
            for word, after in followers
        )
        return super().parse_args(ctx, list(written))
