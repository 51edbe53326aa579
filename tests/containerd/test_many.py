"""Many containers at once, none of which leaves anything behind."""

from __future__ import annotations

import re
from pathlib import Path

from tests.containerd.builds import LINES
from tests.containerd.cryo import Cryo

_MANY = 50
_SOME = 5


def open_files(pid: int) -> list[str]:
    """Return the open files of a process."""
    return sorted(str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_many_at_once(cryo: Cryo) -> None:
    """Containers are started and deleted at once, each with its own exit; nothing is left."""
    count = _MANY if cryo.build.line == LINES[-1] else _SOME
    forkserver = cryo.forkserver()
    files = open_files(forkserver)
    names = [cryo.fresh("many") for _ in range(count)]
    codes = {name: number % 100 for number, name in enumerate(names)}

    def begin(name: str) -> None:
        script = f"trap 'exit {codes[name]}' TERM; echo {name} > /me; sleep 1000 & touch /up; wait"
        cryo.begin(name, "sh", "-c", script)

    def end(name: str) -> None:
        cryo.exec(name, "sh", "-c", "until [ -e /up ]; do sleep 0.05; done; cat /me").out.strip()
        cryo.ctr("tasks", "kill", "--signal", "SIGTERM", name)

    def delete(name: str) -> str:
        said = cryo.ctr("tasks", "delete", name).err
        cryo.ctr("containers", "delete", name)
        return said

    with cryo.removing(*names):
        cryo.each(begin, names)
        tasks = cryo.tasks()
        assert [tasks[name][1] for name in names] == ["RUNNING"] * count
        assert len(cryo.children_of(forkserver)) == len({tasks[name][0] for name in names}) == count
        cryo.each(end, names)
        cryo.until_all_stopped(names)
        said = cryo.each(delete, names)
        assert [told_code(text) for text in said] == [codes[name] for name in names]

    cryo.expect_nothing_new()
    assert open_files(forkserver) == files


def told_code(text: str) -> int:
    """Return the exit code in the warning of `ctr tasks delete`; it prints none for 0."""
    found = re.search(r"exit code (\d+)", text)
    return int(found[1]) if found else 0
