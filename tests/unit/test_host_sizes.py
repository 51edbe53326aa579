"""Sizes as text."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.config import Store
from shim.errors import InvalidArgument
from shim.host.sizes import parse_size, size


@pytest.mark.parametrize(
    ("text", "count"),
    (
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("1KiB", 1024),
        ("200GiB", 200 << 30),
        ("200 G", 200 << 30),
        ("1.5 TiB", 3 << 39),
        (" 2PiB ", 2 << 50),
        ("9007199254740993", 9007199254740993),
    ),
)
def test_sizes(text: str, count: int) -> None:
    """A number and a unit, of which each is 1024 times the one before."""
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ("", "G", "-1", "1e3", "1GB", "1,5G", "1 XiB", "inf", "\u0661"))
def test_what_is_no_size(text: str) -> None:
    """It is an error that says how to write one."""
    with pytest.raises(InvalidArgument, match="is not a size") as caught:
        parse_size(text)
    assert "200GiB" in caught.value.remedy


@pytest.mark.parametrize(
    ("count", "text"), ((0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 60, "3072.0 PiB"))
)
def test_sizes_are_shown(count: int, text: str) -> None:
    """In the largest unit in which it is at least 1."""
    assert size(count) == text


@given(st.from_regex(re.compile(r"[0-9. BKMGTPi]{0,24}"), fullmatch=True))
def test_what_the_settings_accept_can_be_read(text: str) -> None:
    """Each text that config.toml may have is empty or a size."""
    try:
        msgspec.convert({"quota": text}, Store)
    except msgspec.ValidationError:
        return

    assert not text or parse_size(text) >= 0
