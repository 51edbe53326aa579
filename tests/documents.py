"""The command blocks of the documents, and what their marks say of them.

A block stands below a mark: `<!-- run: TEST -->` names the test that runs it, and
`<!-- not run: REASON -->` says why none does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHELL = {"sh", "console", "bash", "shell"}
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<kind>run|not run): (?P<what>[^\n]+?) -->\n+\Z")


class Block(NamedTuple):
    """A fenced block with commands; `run` and `reason` are what its mark says."""

    page: str
    line: int
    text: str
    run: str = ""
    reason: str = ""


def blocks(page: str, text: str) -> Iterator[Block]:
    """Give the command blocks of a document."""
    for found in _FENCE.finditer(text):
        if found["language"] in SHELL:
            mark = _MARK.search(text[: found.start()])
            kinds = {mark["kind"]: mark["what"]} if mark else {}
            line = text.count("\n", 0, found.start()) + 1
            yield Block(page, line, found["text"], kinds.get("run", ""), kinds.get("not run", ""))


def blocks_run_by(page: str, test: str) -> list[str]:
    """Return the text of the blocks of a page whose mark names a test."""
    found = blocks(page, (ROOT / page).read_text("utf-8"))
    return [block.text for block in found if block.run == test]
