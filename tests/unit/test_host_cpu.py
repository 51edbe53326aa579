"""CPU time of a tree of processes."""

from __future__ import annotations

import os
from pathlib import Path

from shim.host.cpu import Used, used_below

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def process(proc: Path, pid: int, parent: int, *ticks: int) -> None:
    """Write what the kernel says of a process whose name has a parenthesis in it."""
    (proc / str(pid)).mkdir()
    counts = " ".join(map(str, ticks))
    line = f"{pid} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {counts} 20 0 1 0 7 0\n"
    (proc / str(pid) / "stat").write_text(line, "ascii")


def test_only_descendants_count(tmp_path: Path) -> None:
    """Children, their children and the ended ones of each; not the siblings or the parent."""
    process(tmp_path, 10, 1, 1, 2, 0, 0)
    process(tmp_path, 11, 10, 10, 20, 100, 200)
    process(tmp_path, 12, 11, 1000, 2000, 0, 0)
    process(tmp_path, 20, 1, 7, 7, 7, 7)
    process(tmp_path, 1, 0, 9, 9, 9, 9)

    assert used_below(10, tmp_path) == Used(1111 * TICK, 2222 * TICK)
    assert used_below(99, tmp_path) == Used(0, 0)


def test_strange_entries_are_passed_over(tmp_path: Path) -> None:
    """A process that ends meanwhile, a circle of parents, and files that are no process."""
    process(tmp_path, 10, 1, 1, 2, 0, 0)
    process(tmp_path, 30, 31, 5, 5, 5, 5)
    process(tmp_path, 31, 30, 5, 5, 5, 5)
    (tmp_path / "40").mkdir()
    (tmp_path / "50").mkdir()
    (tmp_path / "50" / "stat").write_text("50 (x) S\n", "ascii")
    (tmp_path / "uptime").touch()

    assert used_below(10, tmp_path) == Used(TICK, 2 * TICK)


def test_our_own_time_is_seen() -> None:
    """What this very process used is at least what the kernel reports to it directly."""
    before = os.times()
    used = used_below(os.getpid())

    assert used.user_ns >= int(before.user * 0.5e9)
