"""A tool, the choice that was made for it, and what to do when there is none."""

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
    """Where a tool comes from, or in `reason` why there is none.

    `path` is the tool's first program; its other programs lie beside it.
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
    """A tool in one version: its programs, the sources to try in order, and how to look at it.

    `has_builtin` is asked of the first program only: whether it has the built-in CUDA engine.
    Without an `optional` tool nothing fails: its tests are skipped, also where all else must run.
    """

    name: str
    version: str
    programs: tuple[str, ...]
    sources: tuple[Callable[[Tool, Path], Choice], ...]
    has_builtin: Callable[[Path], bool] = lambda _: False
    optional: bool = False

    def folder(self, cache: Path) -> Path:
        """Return where this version lives in the cache."""
        return cache / self.name / self.version

    def choice(self, path: Path, source: str, *, sha256: str = "") -> Choice:
        """Describe what was found; `path` is the first program."""
        return Choice(
            name=self.name,
            version=self.version,
            path=str(path),
            source=source,
            sha256=sha256,
            has_builtin=self.has_builtin(path),
        )


def choose(tool: Tool, cache: Path) -> Choice:
    """Try the sources in order and return the first that has the tool, or every reason."""
    passed: list[str] = []
    for source in tool.sources:
        try:
            return replace(source(tool, cache), passed_over=tuple(passed))
        except NotHere as no:
            passed.append(str(no))
    reason = "; ".join(passed)
    return Choice(tool.name, tool.version, reason=reason, passed_over=tuple(passed))


def obtain(tool: Tool, cache: Path, *, ask_again: bool) -> Choice:
    """Choose a source for the tool, unless a recent "no" is remembered, and record the answer."""
    record = cache / f"{tool.name}.json"
    if not ask_again and (no := recent_no(record)):
        return no
    choice = replace(choose(tool, cache), checked_at=time.time())
    write_json(record, asdict(choice))
    return choice


def recent_no(record: Path) -> Choice | None:
    """Return the recorded answer when it is a "no" of the last minutes."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        choice = Choice(**json.loads(record.read_text("utf-8")))
        choice = replace(choice, passed_over=tuple(choice.passed_over))
        if choice.reason and 0 <= time.time() - choice.checked_at < REMEMBER_NO_S:
            return choice
    return None


def describe(choice: Choice) -> Iterator[str]:
    """Give the lines that explain one choice."""
    if choice.reason:
        yield f"{choice.name}: not to be had: {choice.reason}"
        return
    yield f"{choice.name}: {choice.path}"
    yield f"  from {choice.source}"
    for why in choice.passed_over:
        yield f"  passed over: {why}"
