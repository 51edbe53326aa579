"""Text that is safe to show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.host.text import excerpts, printable, printable_lines

# Control characters, those that turn or hide writing, line and paragraph ends, half a pair.
ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    """Any text becomes one line of characters that only show themselves."""
    shown = printable(text)

    assert not {unicodedata.category(character) for character in shown} & ACTING
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


@given(st.text(st.characters(exclude_categories=())), st.integers(0, 40))
def test_a_limit_holds(text: str, limit: int) -> None:
    """What is too long is cut to the limit, whatever its escapes add."""
    assert len(printable(text, limit)) <= limit


@pytest.mark.parametrize(
    ("text", "shown"),
    (
        ("plain, Größe 日本 \\x1b", "plain, Größe 日本 \\x1b"),
        ("\x1b[31mred\x1b]52;c;aGk=\x07", "\\x1b[31mred\\x1b]52;c;aGk=\\x07"),
        ("a\nb\r\nc\td", "a b  c d"),
        ("\x9b2J\u202eabc\u200b", "\\x9b2J\\u202eabc\\u200b"),
        ("\udcff", "\\udcff"),
    ),
)
def test_what_is_shown(text: str, shown: str) -> None:
    """Letters of any script stay; the rest is a space or an escape that can be read."""
    assert printable(text) == shown


def test_a_cut_is_marked() -> None:
    """A text that was too long ends in three dots."""
    assert printable("abcdef", 5) == "ab..."
    assert printable("abcde", 5) == "abcde"


def test_lines_stay_lines() -> None:
    """A table stays a table: only its line feeds divide."""
    assert printable_lines("A   B\n1\x1b   2\r") == "A   B\n1\\x1b   2 "


@given(st.text("ab", max_size=60), st.text("ab", max_size=60), st.integers(4, 30))
def test_excerpts_show_where_texts_differ(one: str, other: str, limit: int) -> None:
    """Both are bounded, and differ if the texts do; short ones are whole."""
    shown = excerpts(one, other, limit)

    assert all(len(text) <= limit + 6 for text in shown)
    assert (shown[0] == shown[1]) == (one == other)
    if max(len(one), len(other)) <= limit:
        assert shown == (one, other)


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    (
        ("abcdefghijkl", "abcdefghijkm", ("...ijkl", "...ijkm")),
        ("abcdefghijkl", "abXdefghijkl", ("abcdefghi...", "abXdefghi...")),
        ("abcdefghijkl", "abcdefgh", ("...fghijkl", "...fgh")),
        ("abcdefghijkl", "abcdefghijkl", ("abcdefghi...", "abcdefghi...")),
    ),
)
def test_excerpts(one: str, other: str, shown: tuple[str, str]) -> None:
    """They begin a third before a late difference, and say what is left out."""
    assert excerpts(one, other, 9) == shown
