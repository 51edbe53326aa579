"""OCI hooks on real runsc: what they receive, in a create, a restore and a delete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shim.errors import CryoError
from tests.real.helpers_rig import Rig

pytestmark = pytest.mark.timeout(120)

# The kinds that runsc runs for a container; it runs createContainer since 2025 only.
ALWAYS = ("prestart", "createRuntime", "poststart", "poststop")


def with_hooks(rig: Rig, name: str, said: Path) -> Path:
    """Write the bundle of a container whose hooks each append what they receive to a file."""
    bundle = rig.bundle(name, ("/bin/sleep", "1000"))
    with rig.edited(bundle) as spec:
        spec["annotations"] = {"org.example": "one"}
        spec["hooks"] = {
            kind: [
                {
                    "path": "/bin/sh",
                    "args": ["sh", "-c", f"cat > {said}/{kind}; env > {said}/{kind}.env"],
                    "env": ["MINE=1"],
                }
            ]
            for kind in (*ALWAYS, "createContainer", "startContainer")
        }
    return bundle


def state_of(said: Path, kind: str) -> dict[str, Any]:
    """Return the state that a hook was given, and forget it."""
    state: dict[str, Any] = json.loads((said / kind).read_text("utf-8"))
    (said / kind).unlink()
    return state


def test_hooks_get_the_callers_names(rig: Rig) -> None:
    """Each hook reads the id and the bundle that the client gave, as with runc; never runsc's."""
    said = rig.sim.folder / "said"
    said.mkdir(exist_ok=True)
    bundle = with_hooks(rig, "job", said)

    rig.client.create("job", str(bundle))
    created = [state_of(said, kind) for kind in ("prestart", "createRuntime")]
    pid = rig.client.start("job")
    created.append(state_of(said, "poststart"))
    image = rig.checkpoint("job").image_path
    rig.end("job")
    ended = state_of(said, "poststop")
    rig.restore("copy", image, bundle=str(bundle))
    created += [state_of(said, kind) for kind in ("prestart", "createRuntime", "poststart")]
    rig.end("copy")

    assert [state["id"] for state in created] == ["job"] * 3 + ["copy"] * 3
    assert (ended["id"], state_of(said, "poststop")["id"]) == ("job", "copy")
    assert {state["bundle"] for state in (*created, ended)} == {str(bundle)}
    assert {state["annotations"]["org.example"] for state in created} == {"one"}
    assert created[1]["pid"] == pid
    assert "MINE=1" in (said / "createRuntime.env").read_text("utf-8").splitlines()
    assert not (said / "startContainer").exists()  # gVisor's: it passes them over


def test_image_has_the_hooks_as_they_were_written(rig: Rig) -> None:
    """The spec in an image is the caller's: nothing of ours is in its hooks."""
    said = rig.sim.folder / "said"
    said.mkdir(exist_ok=True)
    bundle = with_hooks(rig, "job", said)
    rig.client.create("job", str(bundle))
    rig.client.start("job")

    saved = rig.client.inspect(rig.checkpoint("job").image_path)["spec"]

    assert saved["hooks"] == json.loads((bundle / "config.json").read_text("utf-8"))["hooks"]


def test_a_hook_that_fails_is_named(rig: Rig) -> None:
    """A create whose hook fails says which one, and what it printed."""
    bundle = rig.bundle("job", ("/bin/sleep", "1000"))
    with rig.edited(bundle) as spec:
        args = ["sh", "-c", "echo no network >&2; exit 3"]
        spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": args}]}

    with pytest.raises(CryoError) as caught:
        rig.client.create("job", str(bundle))

    assert "hook createRuntime-0-sh failed: exit status 3: no network" in caught.value.message
    assert rig.client.list() == []
