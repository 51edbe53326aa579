"""The probed capabilities of a runsc, cached on disk: a shim is too short-lived to probe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shim import __version__
from shim.errors import CryoError
from shim.host import files
from shim.model import Value
from shim.runsc.probe import Capabilities

_LIMIT_BYTES = 64 << 10


class _Known(Value):
    """Probed capabilities, the Cryoshim version that probed them, and the flags that were tried."""

    reader: str
    found: Capabilities
    flags: dict[str, str] | None = None


def recall(
    path: Path, binary: str, identity: tuple[int, ...], flags: Mapping[str, str]
) -> Capabilities | None:
    """Return the cached capabilities of exactly this binary and these flags; None if absent."""
    with contextlib.suppress(CryoError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        known = msgspec.json.decode(files.read_bounded(path, _LIMIT_BYTES), type=_Known)
        found = known.found
        asked = (known.reader, found.binary, found.identity, known.flags)
        if asked == (__version__, binary, identity, dict(flags)):
            return found
    return None


def keep(path: Path, found: Capabilities, flags: Mapping[str, str]) -> None:
    """Cache capabilities, replacing any others.

    Raises:
        CryoError: the file cannot be written; the next owner probes again.
    """
    known = _Known(reader=__version__, found=found, flags=dict(flags))
    files.write_atomic(path, msgspec.json.encode(known))
