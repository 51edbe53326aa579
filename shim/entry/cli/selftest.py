"""`cryo selftest`: loaded on use, since it is an optional part of an installation."""

from __future__ import annotations

import importlib

import click

from shim.errors import FailedPrecondition

NAME = "selftest"
_PACKAGES = ("shim.selftest", "shim.simgpu")
_REMEDY = "pip install 'cryoshim[selftest]', or in a checkout: pip install ./packaging/selftest"
_MODULE = "shim.selftest.command"


def load() -> click.Command:
    """Return the command, or one that prints how to install it."""
    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(_PACKAGES):
            raise
        return _missing
    command: click.Command = module.command
    return command


@click.command(NAME, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def _missing() -> None:
    """Run a self-test; not installed: pip install 'cryoshim[selftest]'."""
    message = "cryo selftest is not installed"
    raise FailedPrecondition(message, remedy=_REMEDY)
