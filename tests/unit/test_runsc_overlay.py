from __future__ import annotations

import pytest

from shim.runsc import overlay


@pytest.mark.parametrize(
    ("saved", "value"),
    (
        ("", "root:dir=/a/b"),
        ("root:self", "root:dir=/a/b"),
        ("root:dir=/elsewhere", "root:dir=/a/b"),
        ("all:self,size=2g", "all:dir=/a/b,size=2g"),
        ("root:memory", "root:memory"),
        ("all:memory,size=1g", "all:memory,size=1g"),
        ("none", "none"),
    ),
)
def test_the_medium_is_of_the_kind_that_was_saved(saved: str, value: str) -> None:
    """A file in a folder of ours, unless the image has memory or no overlay."""
    assert overlay.fitting(saved, "/a/b") == value


@pytest.mark.parametrize("folder", ("", "/a:b", "/a,b"))
def test_a_folder_that_runsc_cannot_be_given(folder: str) -> None:
    """Runsc splits the flag at colons and commas: such a folder leaves it at its default."""
    assert overlay.fitting("", folder) == ""
    assert overlay.fitting("root:memory", folder) == "root:memory"


def test_the_folder_of_a_value() -> None:
    """Only a value that names a folder has one."""
    assert overlay.folder("root:dir=/a/b,size=1g") == "/a/b"
    assert [overlay.folder(one) for one in ("", "none", "root:self", "all:memory")] == [""] * 4


def test_the_operators_choice_is_seen() -> None:
    """Both names of the flag are an operator's choice."""
    assert overlay.is_set({"overlay2": "none"})
    assert overlay.is_set({"overlay": "true"})
    assert not overlay.is_set({"network": "none"})
