"""What was found out about a runsc, kept on disk: a shim lives too briefly to ask for itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from shim import __version__
from shim.errors import CryoError
from shim.host import files
from shim.model import Value
from shim.runsc.probe import Capabilities

_LIMIT_BYTES = 64 << 10


class _Known(Value):
    """An answer, and who understood it so."""

    reader: str
    found: Capabilities


def recall(path: Path, binary: str, identity: tuple[int, ...]) -> Capabilities | None:
    """Return what was kept of exactly this binary; None when there is nothing that can be used."""
    with contextlib.suppress(CryoError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        known = msgspec.json.decode(files.read_bounded(path, _LIMIT_BYTES), type=_Known)
        found = known.found
        if (known.reader, found.binary, found.identity) == (__version__, binary, identity):
            return found
    return None


def keep(path: Path, found: Capabilities) -> None:
    """Keep an answer in place of any other.

    Raises:
        CryoError: it cannot be written; the next owner asks again.
    """
    files.write_atomic(path, msgspec.json.encode(_Known(reader=__version__, found=found)))
