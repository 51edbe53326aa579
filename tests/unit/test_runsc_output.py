"""Parsers of runsc's output: rows, numbers and states, or one typed error."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import RunscError
from shim.model import Stats
from shim.runsc.output import GuestProcess, parse_ps, parse_stats
from tests.unit.fakes_runsc import PS_NEW, PS_OLD, ROWS, ROWS_OLD, STATS


@pytest.mark.parametrize(("text", "rows"), ((PS_OLD, ROWS_OLD), (PS_NEW, ROWS)))
def test_the_table_of_both_versions(text: str, rows: list[GuestProcess]) -> None:
    """Columns are found by the header; the command may have spaces in it."""
    assert parse_ps(text) == rows


def test_no_processes() -> None:
    """An ended container has an empty table."""
    assert parse_ps("") == []
    assert parse_ps(PS_NEW.splitlines()[0]) == []


@pytest.mark.parametrize(
    "text",
    (
        "no header at all",
        "PID CMD\n1 sh",
        PS_NEW + "0 3 1 1",
        PS_NEW + "0 x 1 1 0 ? 18:49 0s sh",
        PS_NEW + "0 " + "9" * 5000 + " 1 1 0 ? 18:49 0s sh",
        PS_NEW + "0 ² 1 1 0 ? 18:49 0s sh",
        PS_NEW + "evil name",
    ),
)
def test_a_table_that_is_none_is_an_error_of_ours(text: str) -> None:
    """A process may call itself what it likes, a line break included: that is no crash."""
    with pytest.raises(RunscError, match="runsc ps"):
        parse_ps(text)


@given(text=st.text(max_size=300), tail=st.text(max_size=60))
def test_any_table_is_read_or_refused(text: str, tail: str) -> None:
    """Whatever runsc prints: rows, or one typed error."""
    for whole in (text, PS_NEW + tail, PS_NEW.replace("sh\n", text + "\n")):
        try:
            rows = parse_ps(whole)
        except RunscError:
            continue
        assert all(row.pid >= 0 for row in rows)


def test_stats_as_they_are() -> None:
    """What runsc measures, and zero for what it does not."""
    assert parse_stats(json.dumps(STATS)) == Stats(
        cpu_usage_ns=1398526349335, memory_bytes=2527232, memory_rss_bytes=2527232, pids=2
    )


BAD_STATS = ("", "{", "[]", "null", "1", '{"data": 1}', '{"data": {"cpu": []}}', "[" * 200_000)


@pytest.mark.parametrize(
    "text",
    (
        *BAD_STATS,
        '{"data": {"pids": {"current": "x"}}}',
        '{"data": {"pids": {"current": Infinity}}}',
        '{"data": {"pids": {"current": [1]}}}',
    ),
    ids=lambda text: repr(text[-30:]),
)
def test_no_stats_is_an_error_of_ours(text: str) -> None:
    """Numbers that are none are said so."""
    with pytest.raises(RunscError, match="runsc events"):
        parse_stats(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("data", "cpu", "usage", "total", "memory", "pids", "current")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(data=JSON)
def test_any_stats_are_read_or_refused(data: object) -> None:
    """Whatever JSON comes: numbers, or one typed error."""
    with contextlib.suppress(RunscError):
        parse_stats(json.dumps(data))
