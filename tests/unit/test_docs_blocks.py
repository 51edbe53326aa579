"""Each command block of a document is run by a test, or says why it is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.documents import ROOT, Block, blocks
from tests.source import parsed

PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
INDENTED = re.compile(
    r"(?<=\n\n) {4}(?:\$ |#|sudo |cryo|ctr|docker|kubectl|make|python|pip|curl|source|/opt)"
    r"\b"
)
MARKED = """\
text

<!-- run: tests/a.py::test_a -->
```sh
one
```

<!-- not run: it needs a network -->

```console
# two
```

```sh
three
```

```toml
four = 4
```
"""


def command_blocks() -> Iterator[Block]:
    """Give the command blocks of all documents."""
    for page in PAGES:
        yield from blocks(page, (ROOT / page).read_text("utf-8"))


def test_each_block_has_a_mark() -> None:
    """A test that runs it, or the reason why none does."""
    without = [f"{one.page}:{one.line}" for one in command_blocks() if not (one.run or one.reason)]

    assert len(list(command_blocks())) > 60
    assert without == [], "write <!-- run: TEST --> or <!-- not run: REASON --> above the block"


def test_a_test_that_is_named_reads_its_page() -> None:
    """It is there under that name, and its file names the page."""
    run = [one for one in command_blocks() if one.run]

    assert len(run) > 5
    for block in run:
        path, _, name = block.run.partition("::")
        source = (ROOT / path).read_text("utf-8")
        functions = {one.name for one in parsed(source).body if isinstance(one, ast.FunctionDef)}
        assert name in functions, block
        assert f'"{block.page}"' in source, block


def test_reasons_name_tests_that_exist() -> None:
    """A test that does the same elsewhere is there."""
    named = re.compile(r"\btests?[\w/]*/?test_\w+\.py|\btests/\w+")
    for block in command_blocks():
        for path in named.findall(block.reason):
            assert (ROOT / path).exists(), block


@pytest.mark.parametrize("page", PAGES)
def test_no_command_stands_in_an_indented_block(page: str) -> None:
    """Only a fenced block can have a mark."""
    assert not INDENTED.search((ROOT / page).read_text("utf-8"))


def test_marks_are_read() -> None:
    """A block of another language needs none."""
    assert list(blocks("page", MARKED)) == [
        Block("page", 4, "one\n", run="tests/a.py::test_a"),
        Block("page", 10, "# two\n", reason="it needs a network"),
        Block("page", 14, "three\n"),
    ]
