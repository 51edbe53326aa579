from __future__ import annotations

from pathlib import Path

import pytest

from hack.tools.running import NotHere
from tests.builds import RunscBuild, can_run_runsc, find


def test_builtin_engine_is_what_sets_the_versions_apart(runsc: RunscBuild) -> None:
    """The new runsc has the built-in CUDA engine and the old one has not."""
    assert (runsc.name == "new") == runsc.has_builtin


def test_a_runsc_that_cannot_run_is_reported_in_one_line() -> None:
    """A program that is no runsc gives one line that says so."""
    reason = can_run_runsc(Path("/bin/false"))

    assert "cannot run a container here" in reason
    assert len(reason.splitlines()) == 1


def test_a_tool_that_no_process_looked_for_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache the reason says which command fills it."""
    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))

    with pytest.raises(NotHere, match="make tools"):
        find("new")
