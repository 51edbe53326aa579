"""A tool, and the choice of its source."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hack.tools.cache import write_json
from hack.tools.running import NotHere

REMEMBER_NO_S = 600.0


@dataclass(frozen=True)
class Choice:
    """Where a tool comes from, or in `reason` why it is unavailable.

    `path` is the tool's first program; its other programs are in the same directory.
    """

    name: str
    version: str
    path: str = ""
    source: str = ""
    sha256: str = ""
    has_builtin: bool = False
    reason: str = ""
    passed_over: tuple[str, ...] = ()
    checked_at: float = 0.0


@dataclass(frozen=True)
class Tool:
    """A tool in one version: its programs, and the sources to try in order.

    `has_builtin` returns whether the first program has the built-in CUDA engine. If an `optional`
    tool is unavailable, its tests are skipped, even with CRYO_REQUIRE_REAL.
    """

    name: str
    version: str
    programs: tuple[str, ...]
    sources: tuple[Callable[[Tool, Path], Choice], ...]
    has_builtin: Callable[[Path], bool] = lambda _: False
    optional: bool = False

    def folder(self, cache: Path) -> Path:
        """Return the directory of this version in the cache."""
        return cache / self.name / self.version

    def choice(self, path: Path, source: str, *, sha256: str = "") -> Choice:
        """Return the choice of a tool whose first program is at `path`."""
        return Choice(
            name=self.name,
            version=self.version,
            path=str(path),
            source=source,
            sha256=sha256,
            has_builtin=self.has_builtin(path),
        )


def choose(tool: Tool, cache: Path) -> Choice:
    """Try the sources in order; return the first that has the tool, or all reasons."""
    passed: list[str] = []
    for source in tool.sources:
        try:
            return replace(source(tool, cache), passed_over=tuple(passed))
        except NotHere as no:
            passed.append(str(no))
    reason = "; ".join(passed)
    return Choice(tool.name, tool.version, reason=reason, passed_over=tuple(passed))


def obtain(tool: Tool, cache: Path, *, ask_again: bool) -> Choice:
    """Choose a source for the tool, unless a recent failure is cached, and record the choice."""
    record = cache / f"{tool.name}.json"
    if not ask_again and (no := recent_no(record)):
        return no
    choice = replace(choose(tool, cache), checked_at=time.time())
    write_json(record, asdict(choice))
    return choice


def recent_no(record: Path) -> Choice | None:
    """Return the recorded choice if it is a recent failure."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        choice = Choice(**json.loads(record.read_text("utf-8")))
        choice = replace(choice, passed_over=tuple(choice.passed_over))
        if choice.reason and 0 <= time.time() - choice.checked_at < REMEMBER_NO_S:
            return choice
    return None


def describe(choice: Choice) -> Iterator[str]:
    """Yield the lines that describe a choice."""
    if choice.reason:
        yield f"{choice.name}: unavailable: {choice.reason}"
        return
    yield f"{choice.name}: {choice.path}"
    yield f"  from {choice.source}"
    for why in choice.passed_over:
        yield f"  not used: {why}"
