"""The cgroup that a sandbox has for itself, and its figures, in both versions."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from shim.errors import NotFound
from shim.host import cgroup
from shim.model import DeviceUse, Stats
from tests.unit.helpers_cgroup import V1, V2, Tree

# Whose parent is asked of the real /proc: a pid that exists.
PID = os.getpid()
FIGURES = Stats(
    cpu_usage_ns=7000,
    cpu_user_ns=5000,
    cpu_system_ns=2000,
    cpu_periods=9,
    cpu_throttled_periods=3,
    cpu_throttled_ns=4000,
    memory_bytes=1000,
    memory_limit_bytes=4096,
    memory_max_bytes=2000,
    memory_cache_bytes=500,
    memory_rss_bytes=300,
    memory_mapped_file_bytes=25,
    memory_inactive_anon_bytes=26,
    memory_active_anon_bytes=27,
    memory_inactive_file_bytes=200,
    memory_active_file_bytes=28,
    memory_unevictable_bytes=29,
    memory_swap_bytes=17,
    memory_swap_limit_bytes=19,
    memory_limit_hits=6,
    page_faults=11,
    major_page_faults=12,
    oom_kills=1,
    pids=21,
    pids_limit=100,
)
DISK = DeviceUse(major=8, minor=0, read_bytes=4096, write_bytes=8192, reads=1, writes=2)


@pytest.fixture(params=(V1, V2), ids=("v1", "v2"))
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """Give an empty tree of each version."""
    return Tree(tmp_path, request.param)


@pytest.mark.parametrize("path", ("/docker/a", "/system.slice/cri-containerd-a.scope"))
def test_a_cgroup_of_its_own_is_found_where_it_is_mounted(tree: Tree, path: str) -> None:
    """The path that the kernel names leads to the files, no matter who chose it."""
    tree.process(str(PID), path)

    assert cgroup.find(PID, tree.proc) == tree.cgroup(path)


@pytest.mark.parametrize("path", ("/", "/ours", "/of-the-parent"))
def test_a_shared_cgroup_is_none(tree: Tree, path: str) -> None:
    """What runsc left where it was started counts others too."""
    tree.process(str(PID), path)

    assert cgroup.find(PID, tree.proc) is None


def test_a_process_that_is_gone_has_none(tree: Tree) -> None:
    """Nothing is said of whom the kernel does not know."""
    assert cgroup.find(PID, tree.proc) is None


def test_figures_are_the_same_in_both_versions(tree: Tree) -> None:
    """Each version's files are read into the same units."""
    tree.write("/a")

    stats = cgroup.measure(tree.cgroup("/a"))

    in_both = {"io": (), "memory_kernel_bytes": 0, "memory_kernel_tcp_bytes": 0}
    assert msgspec.structs.replace(stats, **in_both) == FIGURES
    if not tree.cgroup("/a").unified:
        assert (stats.memory_kernel_bytes, stats.memory_kernel_tcp_bytes) == (23, 24)
    assert stats.io[0] == DISK
    assert stats.io[-1].reads == 3


def test_a_cgroup_that_was_removed_is_not_found(tree: Tree) -> None:
    """The end of a task may come while it is measured."""
    with pytest.raises(NotFound, match="gone"):
        cgroup.measure(tree.cgroup("/a"))
    assert cgroup.oom_kills(tree.cgroup("/a")) == 0


def test_what_a_kernel_does_not_count_is_zero(tmp_path: Path) -> None:
    """Only the memory in use must be there."""
    for version, name in ((V1, "memory.usage_in_bytes"), (V2, "memory.current")):
        tree = Tree(tmp_path / name, version)
        own = tree.cgroup("/a")
        folder = own.folders["" if own.unified else "memory"]
        folder.mkdir(parents=True)
        (folder / name).write_text("5\n", "ascii")

        assert cgroup.measure(own) == Stats(memory_bytes=5)


@pytest.mark.parametrize(
    ("files", "name", "text"),
    ((V1, "memory.limit_in_bytes", "9223372036854771712\n"), (V2, "memory.max", "max\n")),
    ids=("v1", "v2"),
)
def test_no_limit_is_zero(
    tmp_path: Path, files: dict[str, dict[str, str]], name: str, text: str
) -> None:
    """Each version has its own word for no limit."""
    tree = Tree(tmp_path, files)
    tree.write("/a")
    own = tree.cgroup("/a")
    (own.folders["" if own.unified else "memory"] / name).write_text(text, "ascii")
    pids = own.file("pids", "pids.max")
    assert pids is not None
    pids.write_text("max\n", "ascii")

    stats = cgroup.measure(own)

    assert (stats.memory_limit_bytes, stats.pids_limit) == (0, 0)


def test_hybrid_hosts_count_memory_in_version_1(tmp_path: Path) -> None:
    """The unified hierarchy is there too, and has no controllers; version 1 decides."""
    tree = Tree(tmp_path, {"": {}, **V1})
    tree.process(str(PID), "/a")

    found = cgroup.find(PID, tree.proc)

    assert found is not None
    assert not found.unified
    assert found.file("memory", "x") == tree.cgroup("/a").folders["memory"] / "x"


def test_controllers_that_are_mounted_together(tmp_path: Path) -> None:
    """One hierarchy with two controllers holds the files of both."""
    tree = Tree(tmp_path, {"cpu,cpuacct": {}, "memory": {}})
    tree.process(str(PID), "/a")

    found = cgroup.find(PID, tree.proc)

    assert found is not None
    assert found.folders["cpu"] == found.folders["cpuacct"]


def test_only_part_of_the_hierarchy_is_mounted(tmp_path: Path) -> None:
    """In a container the mount begins at its own cgroup, and what lies outside is not seen."""
    tree = Tree(tmp_path, V2)
    mountinfo = tree.proc / "self" / "mountinfo"
    mountinfo.write_text(f"30 20 0:30 /box {tmp_path} rw - cgroup2 cgroup2 rw\n", "ascii")

    tree.process(str(PID), "/box/a")
    inside = cgroup.find(PID, tree.proc)
    tree.process(str(PID), "/elsewhere/a")

    assert inside is not None
    assert inside.folders[""] == tmp_path / "a"
    assert cgroup.find(PID, tree.proc) is None


def test_this_very_process_is_found_or_has_none() -> None:
    """The real /proc of whatever host this is can be read."""
    assert cgroup.find(os.getpid()) is None


ELSEWHERE = ("", "a", "a.slice:cri:b", "/a/../../b")


def test_places_that_a_spec_means(tmp_path: Path) -> None:
    """One folder in each hierarchy; what is relative or systemd's has no place that we know."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "1 2 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n"
        "1 2 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "1 2 0:1 /part /cg/pids rw - cgroup cgroup rw,pids\n"
        "1 2 0:1 / /cg/unified rw - cgroup2 cgroup2 rw\n"
    )

    found = cgroup.paths("/pods/a", tmp_path)

    assert found == [Path(f"/cg/{kind}/pods/a") for kind in ("cpu", "memory", "unified")]
    assert [cgroup.paths(path, tmp_path) for path in ELSEWHERE] == [[]] * 4


def test_only_what_is_empty_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just died is waited for, one that lives on is not harmed."""
    busy = {tmp_path / "dies": 2, tmp_path / "lives": 1 << 20}
    plain = Path.rmdir

    def rmdir(folder: Path) -> None:
        if busy.get(folder, 0) > 0:
            busy[folder] -= 1
            raise OSError(errno.EBUSY, "busy")
        plain(folder)

    for name in ("free", "dies", "lives"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Path, "rmdir", rmdir)
    monkeypatch.setattr(cgroup, "_EMPTY_S", 0.2)

    cgroup.remove_empty([tmp_path / name for name in ("none", "free", "dies", "lives")])

    assert [path.name for path in tmp_path.iterdir()] == ["lives"]


# -- how much more it may take -------------------------------------------------------------------


def limit(tree: Tree, path: str, text: str) -> None:
    """Set a cgroup's limit."""
    found = tree.cgroup(path)
    name = "memory.max" if found.unified else "memory.limit_in_bytes"
    file = found.file("memory", name)
    assert file is not None
    file.write_text(f"{text}\n", "ascii")


def test_room_is_what_the_limit_leaves(tree: Tree) -> None:
    """File pages are dropped before anybody is killed."""
    tree.write("/a")

    assert cgroup.free_bytes(tree.cgroup("/a")) == 4096 - 1000 + 200 + 28


@pytest.mark.parametrize(("own", "pod", "wanted"), ((9999, 2000, 1228), (2000, 9999, 1228)))
def test_room_is_the_least_of_all_above(tree: Tree, own: int, pod: int, wanted: int) -> None:
    """The limit of a pod is not that of its container's cgroup."""
    for path, most in (("/kubepods/pod", pod), ("/kubepods/pod/a", own)):
        tree.write(path)
        limit(tree, path, str(most))

    assert cgroup.free_bytes(tree.cgroup("/kubepods/pod/a")) == wanted


def test_no_limit_leaves_room_for_all(tree: Tree) -> None:
    """Neither version's way to say so is taken for a number; nor is a full one below nothing."""
    tree.write("/a")
    limit(tree, "/a", "max" if tree.cgroup("/a").unified else "9223372036854771712")
    assert cgroup.free_bytes(tree.cgroup("/a")) is None

    limit(tree, "/a", "1")
    assert cgroup.free_bytes(tree.cgroup("/a")) == 0


def test_cgroup_with_others_in_it(tree: Tree) -> None:
    """The memory of a process counts also in a cgroup that it shares with its starter."""
    tree.process(str(PID), "/of-the-parent")
    tree.write("/of-the-parent")

    assert cgroup.find(PID, tree.proc) is None
    around = cgroup.around(PID, tree.proc)
    assert around is not None
    assert cgroup.free_bytes(around) == 4096 - 1000 + 200 + 28
    assert cgroup.unthrottled_bytes(around) == 4096 - 1000 + 200 + 28


def test_memory_is_slowed_down_before_its_limit(tmp_path: Path) -> None:
    """Version 2 has a lower limit, beyond which a process is slowed down instead of killed."""
    tree = Tree(tmp_path, V2)
    tree.write("/a")
    own = tree.cgroup("/a")
    (own.folders[""] / "memory.high").write_text("2000\n", "ascii")

    assert cgroup.unthrottled_bytes(own) == 2000 - 1000 + 200 + 28
    assert cgroup.free_bytes(own) == 4096 - 1000 + 200 + 28
    (own.folders[""] / "memory.high").write_text("max\n", "ascii")
    assert cgroup.unthrottled_bytes(own) == cgroup.free_bytes(own)


def test_memory_without_a_cgroup(tmp_path: Path) -> None:
    """Where no hierarchy counts memory there is no limit."""
    tree = Tree(tmp_path, {"cpu": V1["cpu"]})
    tree.process(str(PID), "/a")

    assert cgroup.around(PID, tree.proc) is None
