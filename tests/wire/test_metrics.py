"""What containerd's clients get to read of a task's use."""

from __future__ import annotations

import msgspec
import pytest

from shim.model import DeviceUse, Stats
from shim.service import metrics

# Each figure is another one, so that no two can be mixed up; times are whole microseconds.
FULL = Stats(
    cpu_usage_ns=1_000,
    cpu_user_ns=2_000,
    cpu_system_ns=3_000,
    cpu_periods=4,
    cpu_throttled_periods=5,
    cpu_throttled_ns=6_000,
    memory_bytes=700,
    memory_limit_bytes=800,
    memory_max_bytes=750,
    memory_cache_bytes=400,
    memory_rss_bytes=300,
    memory_mapped_file_bytes=20,
    memory_inactive_anon_bytes=21,
    memory_active_anon_bytes=22,
    memory_inactive_file_bytes=100,
    memory_active_file_bytes=23,
    memory_unevictable_bytes=24,
    memory_swap_bytes=25,
    memory_swap_limit_bytes=26,
    memory_limit_hits=9,
    page_faults=10,
    major_page_faults=11,
    oom_kills=12,
    pids=13,
    pids_limit=14,
    io=(
        DeviceUse(major=8, minor=0, read_bytes=15, write_bytes=16, reads=17, writes=18),
        DeviceUse(major=8, minor=1, writes=19),
    ),
)


# Version 2 has no count of the kernel's part.
FULL_V1 = msgspec.structs.replace(FULL, memory_kernel_bytes=27, memory_kernel_tcp_bytes=28)


def test_the_kernels_memory_comes_back() -> None:
    """Version 1 counts what the kernel takes for the container, and its TCP buffers."""
    assert metrics.from_v1(metrics.as_v1(FULL_V1)) == FULL_V1


def test_memory_and_swap_are_counted_together() -> None:
    """In version 1 clients get what the kernel says under memory.memsw, as of runc's shim."""
    memory = metrics.as_v1(FULL_V1).memory

    assert (memory.swap.usage, memory.swap.limit) == (725, 826)
    assert metrics.as_v1(Stats()).memory.swap.limit == 9223372036854771712


def test_no_part_of_the_memory_is_missing() -> None:
    """Containerd's CRI leaves out a metric whose part is not there, of a new task too."""
    memory = metrics.as_v1(Stats()).memory

    assert all(memory.HasField(part) for part in ("usage", "swap", "kernel", "kernel_tcp"))


@pytest.mark.parametrize("stats", (FULL, Stats()), ids=("full", "empty"))
def test_every_figure_comes_back(stats: Stats) -> None:
    """Nothing is lost on the way to our own client, in either version."""
    assert metrics.from_v1(metrics.as_v1(stats)) == stats
    assert metrics.from_v2(metrics.as_v2(stats)) == stats


def test_the_working_set_can_be_computed() -> None:
    """The kubelet takes the inactive file pages, of the whole tree in v1, from the usage."""
    one, two = metrics.as_v1(FULL).memory, metrics.as_v2(FULL).memory

    assert one.usage.usage - one.total_inactive_file == 600
    assert two.usage - two.inactive_file == 600
    assert (one.total_rss, two.anon) == (300, 300)


def test_no_limit_is_none_for_clients_too() -> None:
    """A limit of 0 would be one that is reached: the kernel's word for none is written."""
    one, two = metrics.as_v1(Stats()), metrics.as_v2(Stats())

    assert one.memory.usage.limit == 9223372036854771712
    assert one.pids.limit == 0
    assert two.memory.usage_limit == two.pids.limit == (1 << 64) - 1


def test_there_is_always_a_throttling() -> None:
    """Docker's daemon reads the throttling of cgroup v1 unasked, and a nil pointer ends it."""
    assert metrics.as_v1(Stats()).cpu.HasField("throttling")
