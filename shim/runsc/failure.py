"""Reading runsc's complaints: the one line that says what happened, out of pages of output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from shim.errors import (
    CryoError,
    ImageCorrupt,
    InvalidArgument,
    InvalidBundle,
    NotFound,
    ResourceExhausted,
    RunscError,
    Unavailable,
)

_LINE_LIMIT = 400
# Each costs a look through the whole log.
_BROKEN_MAX = 100
_DUMP = re.compile(r"^(goroutine \d+ \[|\[signal |runtime: |panic: .*\[recovered\])")
# A frame of a Go stack: a tab and a file, or a call with its arguments in hex.
_FRAME = re.compile(r"^(\t|\S+\(.*(0x[0-9a-f]+|\.\.\.|\{\}).*\)$|created by )")
# Log lines of other levels, a spec that is shown whole, and Go's usage text: its title, its flags
# and what they mean.
_NOISE = re.compile(
    r"^(WARNING:|W\d{4} |I\d{4} |D\d{4} |Usage of |[a-z-]+ \[flags\] |\s+-| +\t|\s*\{)"
)

_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_GONE = re.compile(r"(does not exist|file does not exist: .*_sandbox)", re.IGNORECASE)
_REFUSED = re.compile(r"connect(ing|ion)?.*(refused|no such file)", re.IGNORECASE)
_WENT_AWAY = re.compile(r"cannot read client sync file|waiting for sandbox to start")
_BETWEEN = re.compile(r"[}\n]\s*\{")
_BAD_IMAGE = re.compile(
    r"(unexpected EOF|statefile cannot be empty|header error|bad magic|unknown header|"
    r"error decoding|inconsistent private memory|not a checkpoint image)",
    re.IGNORECASE,
)

# What runsc says of a hook: why it failed, and all that it printed.
_HOOK = re.compile(
    r'(?:failure|timeout) executing hook "(?P<path>[^"]*)"(?:, err: (?P<why>[^\n]*))?'
    r"\nstdout: (?P<out>.*)\nstderr: (?P<err>.*)",
    re.DOTALL,
)

# What the request or the bundle is to blame for, and how it is put right.
_REQUESTS: tuple[tuple[re.Pattern[str], type[CryoError], str], ...] = (
    (
        re.compile(r"failed to load |error finding executable "),
        InvalidArgument,
        "name a program that the image has",
    ),
    (
        re.compile(r"failed to create process working directory"),
        InvalidArgument,
        "name a working directory that the image has",
    ),
    (re.compile(r"error unmarshaling spec"), InvalidBundle, "correct config.json"),
    (re.compile(r"error setting up FS: "), InvalidBundle, "correct the spec's mounts"),
    (re.compile(r"no such process"), NotFound, "it has ended"),
    (_GONE, NotFound, "its sandbox is gone: delete the task"),
)


def last_error_line(text: str) -> str:
    """Return the line of a command's stderr that says why, never one of a goroutine dump."""
    if hook := _HOOK.search(text):
        return _of_hook(hook)[:_LINE_LIMIT]
    useful: list[str] = []
    for raw in text.splitlines():
        if _DUMP.match(raw):
            break
        line = raw.strip()
        if line and not _NOISE.match(raw) and not _FRAME.match(raw):
            useful.append(line)
    chosen = useful[-1] if useful else ""
    return chosen.rstrip(": ")[:_LINE_LIMIT]


def _of_hook(found: re.Match[str]) -> str:
    """Say which hook failed, how it ended, and the last that it printed."""
    said = [line.strip() for line in (found["err"] or found["out"]).splitlines() if line.strip()]
    name = found["path"].rpartition("/")[2]
    whole = ": ".join((f"hook {name} failed", found["why"] or "timeout", *said[-1:]))
    return " ".join(whole.split())


def last_log_error(log: str) -> str:
    """Return the error of a runsc JSON log that says why, or an empty text.

    That is the newest, but for one that only tells that the sandbox went away: then the oldest,
    which is the sandbox's own reason.
    """
    errors = [text for entry in _entries(log) if (text := _error_in(entry))]
    if not errors:
        return ""
    return errors[0] if _WENT_AWAY.search(errors[-1]) else errors[-1]


def _error_in(entry: object) -> str:
    if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
        return last_error_line(str(entry.get("msg", "")))
    return ""


def _entries(log: str) -> Iterator[object]:
    """Read one entry after the other: runsc puts nothing between them, others a line break."""
    decoder, broken = json.JSONDecoder(), 0
    at = log.find("{")
    while at >= 0 and broken < _BROKEN_MAX:
        try:
            entry, end = decoder.raw_decode(log, at)
            yield entry
        except (ValueError, RecursionError):
            broken += 1
            end = _resume(log, at)
        at = log.find("{", end)


def _resume(log: str, at: int) -> int:
    """Find where the next entry may begin after one that cannot be read."""
    found = _BETWEEN.search(log, at + 1)
    return found.end() - 1 if found else len(log)


def failure(command: str, status: int, line: str) -> CryoError:
    """Choose the typed error for what a runsc command said."""
    said = line or f"exit status {status} and no message"
    if _NO_SPACE.search(said):
        message = f"runsc {command}: the disk is full"
        return ResourceExhausted(message, remedy="free space, or choose another image path")
    if _BAD_IMAGE.search(said):
        message = f"runsc {command}: the image cannot be read: {said}"
        return ImageCorrupt(message, remedy="check it with 'cryo checkpoints verify'")
    for pattern, kind, remedy in _REQUESTS:
        if pattern.search(said):
            message = f"runsc {command}: {said}"
            return kind(message, remedy=remedy)
    if _REFUSED.search(said):
        message = f"runsc {command}: the sandbox does not answer: {said}"
        return Unavailable(message, remedy="it has ended; delete the task")
    return RunscError(command, status, said)
