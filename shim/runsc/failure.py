"""Extracts from runsc's output and logs the one line with the cause of a failure."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from shim.errors import CryoError, NotFound, RunscError
from shim.runsc.causes import CAUSES

_LINE_LIMIT = 400
_LOG_LIMIT = 1 << 20
_SIGNALED = 128
_SEE_STDERR = "check the kernel's log for a killed process, and runsc's own output"
# Each broken entry costs a scan of the whole log.
_BROKEN_MAX = 100
_DUMP = re.compile(r"^(goroutine \d+ \[|\[signal |runtime: |panic: .*\[recovered\])")
# A frame of a Go stack: a tab and a file, or a call with hexadecimal arguments.
_FRAME = re.compile(r"^(\t|\S+\(.*(0x[0-9a-f]+|\.\.\.|\{\}).*\)$|created by )")
# Log lines of other levels, a dumped spec, and Go's usage text: its title, flags and descriptions.
_NOISE = re.compile(
    r"^(WARNING:|W\d{4} |I\d{4} |D\d{4} |Usage of |[a-z-]+ \[flags\] |\s+-| +\t|\s*\{|\*\*\* )"
)

_WENT_AWAY = re.compile(r"cannot read client sync file|waiting for sandbox to start")
_BETWEEN = re.compile(r"[}\n]\s*\{")
# runsc's error for a hook: the reason, and all of the hook's output.
_HOOK = re.compile(
    r'(?:failure|timeout) executing hook "(?P<path>[^"]*)"(?:, err: (?P<why>[^\n]*))?'
    r"\nstdout: (?P<out>.*)\nstderr: (?P<err>.*)",
    re.DOTALL,
)
_OF_HOOK = "hook "
# How runsc and the sentry report that a program cannot be found or loaded.
_NO_PROGRAM = ("failed to load ", "error finding executable ")
# Dumped Go values, and names internal to runsc: the container of a spec without a name, and a task
# id with its suffix.
_PLAIN: tuple[tuple[re.Pattern[str], str], ...] = (
    # The container's command line, which can be longer than the error after it.
    (re.compile(r"(starting sub-container) \[.*?\](?=: )"), r"\1"),
    (re.compile(r"\{Destination:(\S+) Type:[^}]*\}"), r"\1"),
    (re.compile(r",? (?:checkpoint )?&?(?:\[\])?specs\.\w+\{.*"), ""),
    (re.compile(r" from &wire\.\w+\{.*?\}: "), ": "),
    (re.compile(r"__no_name_\d+:(?=/)"), ""),
    (re.compile(r'"([A-Za-z0-9_.-]+)\+"'), r'"\1"'),
)


def error_line(text: str) -> str:
    """Return the line of a command's stderr with the cause: the first that is not noise.

    The lines after it are its details: Go values over many lines, a usage text, a goroutine dump.
    """
    if hook := _HOOK.search(text):
        return _of_hook(hook)[:_LINE_LIMIT]
    for raw in text.splitlines():
        if _DUMP.match(raw):
            break
        line = raw.strip()
        if line and not _NOISE.match(raw) and not _FRAME.match(raw):
            return _plain(line).rstrip(": ")[:_LINE_LIMIT]
    return ""


def _of_hook(found: re.Match[str]) -> str:
    """Return which hook failed, why, and the last line that it printed."""
    said = [line.strip() for line in (found["err"] or found["out"]).splitlines() if line.strip()]
    name = found["path"].rpartition("/")[2]
    whole = ": ".join((f"{_OF_HOOK}{name} failed", found["why"] or "timeout", *said[-1:]))
    return " ".join(whole.split())


def _plain(line: str) -> str:
    for pattern, instead in _PLAIN:
        line = pattern.sub(instead, line)
    return line


def last_error(log: Path) -> str:
    """Return the error of the end of a runsc log file; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_LIMIT))
            return log_error(file.read().decode("utf-8", "replace"))
    except OSError:
        return ""


def log_error(log: str) -> str:
    """Return the error of a runsc JSON log with the cause, or an empty string.

    That is the newest, unless it only reports that the sandbox exited: then the oldest, which is
    the sandbox's own error.
    """
    errors = [text for entry in _entries(log) if (text := _error_in(entry))]
    if not errors:
        return ""
    return errors[0] if _WENT_AWAY.search(errors[-1]) else errors[-1]


def _error_in(entry: object) -> str:
    if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
        return error_line(str(entry.get("msg", "")))
    return ""


def _entries(log: str) -> Iterator[object]:
    """Yield the entries; runsc writes no separator between them, other writers a line break."""
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
    """Find where the next entry may begin after one that cannot be parsed."""
    found = _BETWEEN.search(log, at + 1)
    return found.end() - 1 if found else len(log)


def no_program(program: str, said: str) -> NotFound | None:
    """Return the error if an exec failed because the image has no such program."""
    if not any(sign in said for sign in _NO_PROGRAM):
        return None
    message = f"the image has no {'program ' + program if program else 'such program'}"
    return NotFound(message)


def failure(command: str, status: int, line: str) -> CryoError:
    """Return the typed error for a runsc command's error line."""
    # A hook's output is not matched: it is not runsc's message.
    for cause in () if line.startswith(_OF_HOOK) else CAUSES:
        if found := cause.explain(line):
            said, remedy = found
            return cause.kind(f"runsc {command}: {said}", remedy=remedy)
    if _WENT_AWAY.search(line):
        message = "the sandbox exited before it was set up, and reported no reason"
        return RunscError(command, status, message, remedy=_SEE_STDERR)
    if line:
        return RunscError(command, status, line)
    return RunscError(command, status, _silent(status), remedy=_SEE_STDERR)


def _silent(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"it was killed by {signal.Signals(status - _SIGNALED).name} and printed no error"
    return f"exit status {status} and no message"
