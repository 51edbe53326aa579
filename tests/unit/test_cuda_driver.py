"""What each driver can do."""

from __future__ import annotations

import pytest

from shim.cuda.driver import capabilities
from shim.errors import Refused

ABILITIES = ("get_state", "action", "lock_timeout", "device_map")


@pytest.mark.parametrize(
    ("version", "can", "warnings"),
    (
        ("550.54.14", (), 2),
        ("554.1", (), 2),
        ("555.42.02", ("get_state", "action"), 1),
        ("565.57.01", ("get_state", "action"), 1),
        ("570.124.06", ("get_state", "action", "lock_timeout"), 0),
        ("580.65.06", ABILITIES, 0),
        ("610.57.04", ABILITIES, 0),
        ("1000.1", ABILITIES, 0),
    ),
)
def test_each_release_line(version: str, can: tuple[str, ...], warnings: int) -> None:
    """Each ability begins with its release, and what is missing is said."""
    facts = capabilities(version)

    assert tuple(name for name in ABILITIES if getattr(facts, name)) == can
    assert len(facts.warnings) == warnings


def test_below_570_the_lock_timeout_is_said_to_be_lost() -> None:
    """The warning names what is lost, in the words of the option."""
    assert "lock timeout" in capabilities("565.57.01").warnings[0]


@pytest.mark.parametrize("version", ("535.183.06", "470.1", "549.99", "", "abc", "580", "580.x"))
def test_what_cannot_work_is_refused(version: str) -> None:
    """Too old, absent or not understood: refused, with the driver to install."""
    with pytest.raises(Refused) as caught:
        capabilities(version)

    assert caught.value.remedy
