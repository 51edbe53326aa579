"""Errors of runsc reach containerd's clients unchanged."""

from __future__ import annotations

import pytest

from tests.containerd.cryo import Cryo


@pytest.mark.parametrize(
    ("flag", "line"),
    (
        ('no-such-flag = "1"', "flag provided but not defined: -no-such-flag"),
        ('file-access = "shared"', "overlay flag is incompatible with shared file access"),
    ),
)
def test_flags_that_runsc_does_not_take(cryo: Cryo, flag: str, line: str) -> None:
    """A shim with invalid runsc flags creates no container, and ctr prints why."""
    own = cryo.folder / "wrong.toml"
    text = cryo.config.read_text("utf-8")
    own.write_text(text.replace("[runsc.flags]", f"[runsc.flags]\n{flag}"), "utf-8")
    assert flag in own.read_text("utf-8")
    with cryo.removing("wrong"):
        ran = cryo.run(
            "wrong", "true", flags=("-d", "--runtime-config-path", str(own)), check=False
        )

    assert ran.status != 0
    assert line in ran.err
    assert "no message" not in ran.err
    cryo.expect_nothing_new(ignored=("forkserver",))
