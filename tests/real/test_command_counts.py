"""How many runsc commands each operation runs, as docs/performance.md has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shim.model import CheckpointOptions, EngineName
from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, machine_with

pytestmark = pytest.mark.timeout(180)

DOCS = Path(__file__).parents[2] / "docs" / "performance.md"
COMMANDS = [
    "create",
    "start",
    "state",
    "ps",
    "exec",
    "kill",
    "pause",
    "resume",
    "wait",
    "delete",
    "checkpoint",
    "restore",
    "events",
    "update",
    "list",
]
KINDS = ("plain", "phased", "builtin")


class Counted:
    """A machine whose runsc notes each of its calls."""

    def __init__(self, rig: Rig, calls: Path) -> None:
        self.rig = rig
        self._calls = calls
        self.counts: dict[str, Counter[str]] = {}

    def count(self, operation: str) -> None:
        """Take the commands since the last call for those of an operation."""
        lines = self._calls.read_text("utf-8").splitlines()
        self._calls.write_text("", "utf-8")
        found = (next((word for word in line.split() if word in COMMANDS), "") for line in lines)
        self.counts[operation] = Counter(word for word in found if word)


@pytest.fixture
def counted(runsc_new: RunscBuild, tmp_path: Path) -> Iterator[Counted]:
    """Give such a machine."""
    calls, wrapper = tmp_path / "calls", tmp_path / "runsc"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {runsc_new.path} "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    with machine_with(replace(runsc_new, path=wrapper)) as rig:
        calls.write_text("", "utf-8")
        yield Counted(rig, calls)


def documented(kind: str) -> dict[str, str]:
    """Return the commands of each operation in the table, for one kind of task."""
    text = DOCS.read_text("utf-8")
    table = text.partition("<!-- commands -->")[2].partition("<!-- end of commands -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    column = rows[0].index(kind)
    return {row[0]: row[column] for row in rows[2:]}


def words(counts: Counter[str]) -> str:
    """Write the commands as the table does."""
    return ", ".join(sorted(f"{name} {n}" if n > 1 else name for name, n in counts.items())) or "-"


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_of_each_operation(counted: Counted, kind: str) -> None:
    """Each is a Go program, which takes at least 13 ms to start."""
    rig = counted.rig
    if kind == "plain":
        bundle = rig.bundle("job", ["/bin/sleep", "1000"])
    else:
        bundle = rig.sim.bundle("job", rig.settings(processes=2), inject_tool=False)
    rig.client.create("job", str(bundle))
    counted.count("create")
    rig.client.start("job")
    counted.count("start")
    if kind != "plain":
        rig.sim.until_ready(rig.guest, "job")
    counted.count("-")
    rig.client.state("job")
    rig.client.list()
    rig.client.pids("job")
    counted.count("state, list, pids")
    rig.execute("job", "one", "/bin/true")
    rig.client.wait("job", "one")
    rig.client.delete("job", "one")
    counted.count("exec")
    path = str(rig.sim.folder / "images" / "job")
    made = rig.client.checkpoint("job", options(path, kind))
    counted.count("checkpoint")
    rig.client.kill("job", 9)
    rig.client.wait("job")
    rig.client.delete("job")
    counted.count("kill, wait, delete")
    rig.restore("copy", made.image_path)
    counted.count("restore")
    rig.end("copy")

    counts = {name: words(found) for name, found in counted.counts.items() if name != "-"}
    assert counts == {name: cell for name, cell in documented(kind).items() if cell}


def options(path: str, kind: str) -> CheckpointOptions:
    """Choose the engine."""
    if kind == "plain":
        return CheckpointOptions(image_path=path)
    return CheckpointOptions(image_path=path, engine=EngineName(kind))
