"""How the images of a name are used: counters in a file beside them, and their reasons.

They are kept by rename, without fsync: a crash of the process loses nothing, and a crash of the
machine at most the newest.
"""

from __future__ import annotations

import enum
import fcntl
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from shim.errors import CryoError
from shim.host import files, trusted
from shim.host.oserror import typed
from shim.host.text import printable
from shim.model import Value, utcnow

USE = ".use.json"
_LOCK = ".use.lock"
_MAX_BYTES = 1 << 20
_MAX_REASONS = 16
_REASON_CHARS = 1000

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class NameOutcome(enum.StrEnum):
    """What became of a start by name, or of saving it."""

    HIT = "hits"
    MISS = "misses"
    REFUSAL = "refusals"
    SAVE = "saves"
    SKIP = "skips"
    FAILURE = "failures"


class Reason(Value):
    """Why starts were refused an image, or were not saved: how often, and when last."""

    outcome: NameOutcome
    text: Annotated[str, msgspec.Meta(max_length=4096)]
    count: Count
    last: datetime


class NamedUse(Value):
    """Counters of a name: how often each outcome was, and the newest reasons.

    `hits` are restores, `misses` cold starts without any image, `refusals` those although there
    was one; `saves` are images made, `skips` saves left to another, `failures` those that failed.
    """

    hits: Count = 0
    misses: Count = 0
    refusals: Count = 0
    saves: Count = 0
    skips: Count = 0
    failures: Count = 0
    reasons: Annotated[tuple[Reason, ...], msgspec.Meta(max_length=64)] = ()

    def counted(self, outcome: NameOutcome, text: str, now: datetime) -> NamedUse:
        """Return the counters with one more of an outcome, for this reason."""
        number = getattr(self, outcome.value) + 1
        reasons = self.reasons
        if text:
            shown = printable(text, _REASON_CHARS)
            same = [one for one in reasons if (one.outcome, one.text) == (outcome, shown)]
            others = [one for one in reasons if one not in same]
            before = same[0].count if same else 0
            newest = Reason(outcome=outcome, text=shown, count=before + 1, last=now)
            reasons = (newest, *others)[:_MAX_REASONS]
        return msgspec.structs.replace(self, **{outcome.value: number}, reasons=reasons)


def read(folder: Path) -> NamedUse:
    """Read the counters of a name's folder; damaged ones begin again at zero."""
    try:
        data = files.read_bounded(folder / USE, _MAX_BYTES)
        return msgspec.json.decode(data, type=NamedUse)
    except (CryoError, msgspec.MsgspecError, RecursionError):
        return NamedUse()


def count(folder: Path, outcome: NameOutcome, text: str = "", *, make: bool = False) -> None:
    """Count an outcome in a name's folder; nothing if there is no such folder, unless `make`.

    Raises:
        CryoError: it cannot be written.
    """
    if make:
        files.make_folders(folder, 0o700)
    if not folder.is_dir():
        return
    fd = trusted.open_file(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    temporary = folder / f".use.{secrets.token_hex(4)}.tmp"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        changed = read(folder).counted(outcome, text, utcnow())
        temporary.write_bytes(msgspec.json.encode(changed))
        temporary.replace(folder / USE)
    except OSError as error:
        raise typed(error, f"count in {folder}") from error
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)
