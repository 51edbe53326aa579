"""Names of images as typed, wherever a path may stand, and prunes beside a restore."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import NotFound, Refused
from shim.image import labels
from shim.model import Verify
from shim.state import TaskState
from tests.gated import gated
from tests.real.helpers_rig import Background, Rig, refused
from tests.real.test_warm_commands import Typed

pytestmark = pytest.mark.timeout(120)
_numbers = itertools.count()


@pytest.fixture
def typed(rig: Rig) -> Iterator[Typed]:
    """Give commands beside a container that runs."""
    rig.sleeper("job")
    yield Typed(rig, f"named-{next(_numbers)}")
    rig.end("job")
    for view in rig.client.images():
        rig.client.unpin(view.path)
        rig.client.remove(view.path)


def listed(typed: Typed) -> dict[str, Any]:
    """Return what `cryo checkpoints ls` says of each image, by its path."""
    found = json.loads(typed.good("--output", "json", "checkpoints", "ls"))
    return {each["path"]: each for each in found}


def test_a_name_from_its_first_image_to_its_end(rig: Rig, typed: Typed) -> None:
    """Given, used by every command, moved to the next image, and removed with it."""
    first = typed.good("tasks", "checkpoint", "job").strip()
    assert typed.good("checkpoints", "tag", first, "llama:warm").strip() == first
    assert json.loads(typed.good("checkpoints", "inspect", "llama:warm"))["task"] == "job"
    assert typed.good("checkpoints", "verify", "llama:warm").startswith("llama:warm: good\n")
    assert listed(typed)[first]["names"] == {"default": ["llama:warm"]}
    before = labels.read(Path(first)).last_used_at
    assert before is not None

    typed.good("tasks", "restore", "--image", "llama:warm", "copy")

    assert typed.warm.view("copy").restored_from == first
    used = labels.read(Path(first)).last_used_at
    assert used is not None
    assert used > before
    assert "no image is named" in typed("-n", "other", "checkpoints", "verify", "llama:warm").stderr
    second = typed.good("tasks", "checkpoint", "copy").strip()
    rig.end("copy")
    typed.good("checkpoints", "tag", second, "llama:warm")
    typed.good("checkpoints", "pin", "llama:warm")
    assert [one["names"] for one in listed(typed).values()] == [{"default": ["llama:warm"]}, {}]
    refusal = typed("checkpoints", "rm", "llama:warm")
    assert refusal.returncode != 0
    assert f"image {second} is pinned; cryo checkpoints unpin {second}" in refusal.stderr
    typed.good("checkpoints", "unpin", "llama:warm")
    typed.good("checkpoints", "rm", "llama:warm")
    assert list(listed(typed)) == [first]
    refused(NotFound, lambda: rig.client.inspect("llama:warm"))


def test_a_prune_beside_a_restore(rig: Rig, typed: Typed) -> None:
    """The image that is being loaded stays, and the others go; a pinned one stays too."""
    images = [typed.good("tasks", "checkpoint", "job").strip() for _ in range(3)]
    with gated(rig.sim, Path(images[0]) / "pages.img") as gate:
        restore = Background(lambda: rig.restore("copy", images[0], verify=Verify.NONE))
        gate.until_asked()

        dry = typed("checkpoints", "prune", "--keep-last", "1", "--dry-run")
        ran = typed("checkpoints", "prune", "--keep-last", "1")

        gate.open()
        restore.result()
    for shown in (dry, ran):
        assert shown.returncode == 0
        assert f"kept {images[0]}: in use" in shown.stderr
    assert list(listed(typed)) == [images[2], images[0]]
    assert typed.warm.view("copy").state is TaskState.RUNNING
    rig.end("copy")
    typed.good("checkpoints", "prune", "--keep-last", "1")
    assert list(listed(typed)) == [images[2]]
    typed.good("checkpoints", "pin", images[2])
    typed.good("checkpoints", "prune", "--older-than", "1ms")
    assert list(listed(typed)) == [images[2]]
    refused(Refused, lambda: rig.client.remove(images[2]))
