"""How two images differ: without a value of the environment."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shim.image import plain_diff
from tests.unit.image_helpers import manifest


def spec(*env: str) -> dict[str, Any]:
    """Make a spec, whose hook has the environment too."""
    hook = {"path": "/bin/hook", "env": list(env)}
    return {"process": {"args": ["a"], "env": list(env)}, "hooks": {"poststart": [hook]}}


def test_of_the_environment_only_names_are_shown() -> None:
    """Of the process's all, of a hook's those that look like secrets."""
    old = manifest(spec=spec("API_TOKEN=hunter1", "GONE=hunter2", "SAME=x"))
    new = manifest(spec=spec("API_TOKEN=hunter3", "SAME=x", "NEW_PASSWORD=hunter4"))

    (found,) = plain_diff.of_containers(old, new)

    assert (found.added, found.removed, found.changed) == (
        ("NEW_PASSWORD",),
        ("GONE",),
        ("API_TOKEN",),
    )
    shown = json.dumps(msgspec.to_builtins(found))
    for secret in ("hunter1", "hunter3", "hunter4"):
        assert secret not in shown


def test_equal_images_do_not_differ() -> None:
    """In no container, and in no field."""
    one = manifest(spec=spec("A=b"))

    assert plain_diff.of_containers(one, one) == ()
    assert plain_diff.of_manifests(one, one) == ()
