"""The command line, `cryo`. Only commands that call the sidecar load gRPC, and not before."""

from __future__ import annotations

import gc
from typing import NoReturn


def main(argv: list[str] | None = None) -> NoReturn:
    """Run `cryo` and exit.

    What it loads stays until it exits, so the collector does not look for garbage there: it would
    take a tenth of the time of a short command, half of that at the exit.
    """
    gc.disable()
    from shim.entry.cli import app

    gc.freeze()
    gc.enable()
    try:
        app.main(argv)
    finally:
        gc.freeze()
