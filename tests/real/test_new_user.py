"""A new user gets from a clone to a restored container on a clean Debian by the documents."""

from __future__ import annotations

import re

import pytest

from hack import quickstart


def test_the_commands_end_with_a_restore() -> None:
    """The blocks are found: they begin with the clone, and end where the copy counts on."""
    pages, texts = zip(*quickstart.commands(), strict=True)

    assert set(pages) == {"docs/install.md", "docs/quickstart-ctr.md"}
    assert texts[0].startswith("git clone")
    assert "ctr containers restore" in texts[-1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_it_takes_less_than_five_minutes() -> None:
    """The copy counts on from what was saved, and all of it takes less than five minutes."""
    seen = quickstart.follow()

    first, second = (int(line) for line in re.findall(r"^(\d+)$", seen.text, re.MULTILINE))
    assert second >= first
    assert seen.elapsed_s < quickstart.LIMIT_S
