"""The size of a terminal in an OCI process object."""

from __future__ import annotations

from typing import Any

import pytest

from shim.host.console import Size
from shim.oci.terminal import console_size


def test_a_size() -> None:
    """Width and height are those that the object says."""
    assert console_size({"consoleSize": {"height": 40, "width": 100}}) == Size(100, 40)


@pytest.mark.parametrize(
    "said",
    (
        None,
        [],
        {},
        {"height": 40},
        {"height": 0, "width": 0},
        {"height": "40", "width": 100},
        {"height": True, "width": 1},
        {"height": 1, "width": 1 << 16},
        {"height": -1, "width": 80},
    ),
)
def test_no_size(said: Any) -> None:
    """What is no size counts as not said: a terminal without one works as well."""
    assert console_size({"consoleSize": said}) is None


def test_no_process() -> None:
    """A spec to restore may say nothing of its process."""
    assert console_size(None) is None
