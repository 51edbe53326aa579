"""What is shown of an image before a restore."""

from __future__ import annotations

import json

from shim.image import contents
from shim.image.manifest import Member
from tests.unit.image_helpers import manifest


def test_secrets_are_named_for_each_container_without_their_values() -> None:
    """In the answer itself, so that no client shows them; the manifest keeps them."""
    member = Member(
        task="side", name="side", spec={"process": {"env": ["SIDE_KEY=hunter3"]}}, spec_digest=""
    )
    plain = Member(task="plain", name="plain", spec={"process": {"env": ["A=b"]}}, spec_digest="")
    made = manifest(spec={"process": {"env": ["DB_PASSWORD=hunter2"]}}, members=(member, plain))

    shown = json.loads(json.dumps(contents.described(made)))

    assert "hunter" not in json.dumps(shown)
    assert shown["spec"] == {"process": {"env": ["DB_PASSWORD=***"]}}
    assert shown["secrets"] == [
        {"task": "t1", "variables": ["DB_PASSWORD"]},
        {"task": "side", "variables": ["SIDE_KEY"]},
    ]
    assert made.spec["process"]["env"] == ["DB_PASSWORD=hunter2"]
    assert contents.warning_of_secrets(made) == (
        "it is not encrypted, and has variables that look like secrets: "
        "DB_PASSWORD of t1, SIDE_KEY of side"
    )
    assert contents.warning_of_secrets(manifest()) is None
