"""A registry for real tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hack.tools.running import NotHere
from tests.builds import excuse
from tests.registry_server import RegistryServer


@contextlib.contextmanager
def registry_server(name: str, folder: Path) -> Iterator[RegistryServer]:
    """Give a registry on a folder, which the test starts; the test is skipped without it."""
    try:
        made = RegistryServer(name, folder)
    except NotHere as no:
        excuse(str(no))
    try:
        yield made
    finally:
        made.kill()
