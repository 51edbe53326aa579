"""The cache of tools, a directory outside the checkout, by name and version."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

LOCK_S = 3000.0


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the cache directory, from CRYO_CACHE, XDG_CACHE_HOME or the home directory."""
    if given := environ.get("CRYO_CACHE"):
        return Path(given).absolute()
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "cryoshim"


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """Yield a temporary directory; also remove those of runs that were killed."""
    root = cache / "work"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        yield Path(tempfile.mkdtemp(dir=root))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def shared(cache: Path, name: str) -> Path:
    """Return a directory that all tools of a run share, such as Go's caches."""
    folder = cache / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Lock the cache for one run; the lock is released when its process exits.

    The directories that the tools of the run shared are removed at the end.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        deadline = time.monotonic() + LOCK_S
        reported = False
        while not try_lock(file.fileno()):
            if not reported:
                say(f"waiting for another run, which holds {cache / 'lock'}")
                reported = True
            if time.monotonic() > deadline:
                message = f"{cache / 'lock'} was held for {LOCK_S:g} s"
                raise TimeoutError(message)
            time.sleep(0.1)
        try:
            yield
        finally:
            shutil.rmtree(cache / "shared", ignore_errors=True)


def try_lock(descriptor: int) -> bool:
    """Acquire the lock; return false if it is held."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file atomically."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    fresh.replace(path)


def stamp(path: Path) -> list[int]:
    """Return the size and mtime of a file, which change when it is written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def record_of(path: Path) -> dict[str, object]:
    """Return the record of a file in the cache: its checksum, size and mtime."""
    return {"sha256": sha256_of(path), "stamp": stamp(path)}


def is_unchanged(path: Path, record: Mapping[str, object]) -> bool:
    """Return whether a file is executable and equals the recorded one.

    The cache has half a gigabyte, so a file with the recorded size and mtime is not hashed.
    """
    if not os.access(path, os.X_OK):
        return False
    return stamp(path) == record["stamp"] or sha256_of(path) == record["sha256"]


def say(line: str) -> None:
    """Print to stderr, since stdout may be JSON."""
    print(line, file=sys.stderr, flush=True)
