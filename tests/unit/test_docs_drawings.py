"""The pictures of docs/architecture.md are those of the code."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hack import layers
from hack.docs import drawings
from hack.docs.calls import Call, calls

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
PHASES = ("preflight", "freeze", "save", "thaw", "seal", "commit")


def test_the_pictures_are_current() -> None:
    """`python -m hack.docs.drawings` writes them."""
    assert drawings.stale() == []


@pytest.mark.parametrize("name", drawings.pictures())
def test_a_picture_is_shown_and_can_be_read(name: str) -> None:
    """It is well-formed, and the page has it."""
    ET.fromstring(drawings.pictures()[name])  # noqa: S314 - our own text

    assert f"]({name})" in PAGE.read_text("utf-8")


def test_each_layer_is_drawn_above_what_it_imports() -> None:
    """All are there."""
    found = layers.read(layers.SHIM)
    edges = layers.reduced({name: one.layers - {name} for name, one in found.items()})
    picture = drawings.layer_picture(edges)

    assert all(f">{name}</text>" in picture for name in found)
    assert picture.index(">entry<") < picture.index(">service<") < picture.index(">host<")


def test_a_checkpoint_has_its_phases_in_their_order() -> None:
    """What the code waits for is found through the methods of the class itself."""
    found = calls("Checkpoint", "_forward")
    phases = dict.fromkeys(phase for call in found for phase in call.phases)

    assert tuple(phases) == PHASES
    saved = Call(
        "Saving",
        "save",
        "Write the image, and wait for the end also when cancelled: the sentry cannot be stopped",
        ("save",),
    )
    assert saved in found


def test_a_sequence_is_drawn_from_the_top() -> None:
    """An arrow for each call, with what it does."""
    picture = drawings.sequence_picture(
        "Job", [Call("Part", "one", "Do <this>", ("seal",)), Call("Other", "two", "", ())]
    )

    assert picture.index(">one<") < picture.index(">two<")
    assert "<title>Do &lt;this&gt;</title>" in picture
    assert ">seal<" in picture
