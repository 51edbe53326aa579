"""The table of failpoints: it names every point that the code reaches, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim import failpoints
from shim.cuda.moves import Action
from shim.oci.app_hooks import AppHookKind

SHIM = Path(failpoints.__file__).parent


@pytest.fixture
def reached() -> Iterator[list[str]]:
    """Give a list of what is reached while the test lasts."""
    found: list[str] = []
    failpoints.arm(found.append)
    yield found
    failpoints.arm(None)


def named() -> set[str]:
    """Return the points that the code names; those of commands by the calls that run them."""
    texts = [path.read_text("utf-8") for path in SHIM.rglob("*.py") if "api" not in path.parts]
    lines = [line for text in texts for line in text.splitlines() if "points.around(" in line]
    found = {name for line in lines for name in re.findall(r'"([a-z]+\.[a-z-]+)"', line)}
    client = (SHIM / "runsc/client.py").read_text("utf-8")
    commands = re.findall(r'(?:_call\(\w+(?:\.id)?, |_Making\()"(\w+)"', client)
    found |= {f"cuda.{action}" for action in Action} | {f"hook.{kind}" for kind in AppHookKind}
    return found | {f"runsc.{command}" for command in commands} | {"event.*"}


def test_the_table_is_whole() -> None:
    """What the code reaches and what the table promises something for are the same."""
    assert named() == set(failpoints.FAILPOINTS)


def test_a_failpoint_has_two_sides(reached: list[str]) -> None:
    """The hook is called before the block, and after it if that succeeds."""
    with failpoints.around("journal.note"):
        pass
    with pytest.raises(OSError, match="full"), failpoints.around("image.name"):
        raise OSError("full")

    assert reached == ["journal.note:before", "journal.note:after", "image.name:before"]


def test_a_hook_may_fail_a_failpoint() -> None:
    """What a hook raises comes out where the point is, and the block is not entered."""

    def fail(_name: str) -> None:
        raise OSError("armed")

    failpoints.arm(fail)
    entered = False
    try:
        with pytest.raises(OSError, match="armed"), failpoints.around("journal.open"):
            entered = True
    finally:
        failpoints.arm(None)
    assert not entered
