"""A task's Stats as the cgroup metrics that containerd's clients understand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage

from shim.api.cgroups.v1 import metrics_pb2 as v1
from shim.api.cgroups.v2 import metrics_pb2 as v2
from shim.errors import Unimplemented
from shim.model import DeviceUse, Stats

_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")
_NS_PER_US = 1000
# Values that mean no limit: clients would take 0 for a limit. Version 1 uses the largest number of
# whole pages for memory, and 0 for pids.
_NO_LIMIT_V1 = (1 << 63) - 4096
_NO_LIMIT_V2 = (1 << 64) - 1
_NO_LIMIT_FROM = 1 << 62


def pack(stats: Stats) -> AnyMessage:
    """Encode stats for this host's cgroup version, by which clients choose their decoder."""
    message = as_v2(stats) if _UNIFIED.exists() else as_v1(stats)
    # containerd's clients compare the bare name, without type.googleapis.com.
    return AnyMessage(
        type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True)
    )


def unpack(packed: AnyMessage) -> Stats:
    """Decode stats of either version.

    Raises:
        Unimplemented: the metrics are of another type.
    """
    name = packed.type_url.rpartition("/")[2]
    if name == v1.Metrics.DESCRIPTOR.full_name:
        return from_v1(v1.Metrics.FromString(packed.value))
    if name == v2.Metrics.DESCRIPTOR.full_name:
        return from_v2(v2.Metrics.FromString(packed.value))
    message = f"metrics of type {name!r} are not known"
    raise Unimplemented(message)


def as_v1(stats: Stats) -> v1.Metrics:
    """Write the metrics of cgroup version 1, which counts CPU time in nanoseconds."""
    return v1.Metrics(
        pids=v1.PidsStat(current=stats.pids, limit=stats.pids_limit),
        cpu=_cpu_v1(stats),
        memory=_memory_v1(stats),
        blkio=v1.BlkIOStat(
            io_service_bytes_recursive=_entries(
                (use, use.read_bytes, use.write_bytes) for use in stats.io
            ),
            io_serviced_recursive=_entries((use, use.reads, use.writes) for use in stats.io),
        ),
        memory_oom_control=v1.MemoryOomControl(oom_kill=stats.oom_kills),
    )


def _cpu_v1(stats: Stats) -> v1.CPUStat:
    return v1.CPUStat(
        usage=v1.CPUUsage(
            total=stats.cpu_usage_ns, user=stats.cpu_user_ns, kernel=stats.cpu_system_ns
        ),
        # Docker's daemon reads the throttling unchecked and crashes without it.
        throttling=v1.Throttle(
            periods=stats.cpu_periods,
            throttled_periods=stats.cpu_throttled_periods,
            throttled_time=stats.cpu_throttled_ns,
        ),
    )


def _memory_v1(stats: Stats) -> v1.MemoryStat:
    """Set the own and the total values to the same: a sandbox has no cgroups below its own.

    `swap` counts memory and swap together, as the kernel and containerd's own shims report it.
    """
    limit, swap_limit = stats.memory_limit_bytes, stats.memory_swap_limit_bytes
    return v1.MemoryStat(
        cache=stats.memory_cache_bytes,
        rss=stats.memory_rss_bytes,
        pg_fault=stats.page_faults,
        pg_maj_fault=stats.major_page_faults,
        mapped_file=stats.memory_mapped_file_bytes,
        inactive_anon=stats.memory_inactive_anon_bytes,
        active_anon=stats.memory_active_anon_bytes,
        inactive_file=stats.memory_inactive_file_bytes,
        active_file=stats.memory_active_file_bytes,
        unevictable=stats.memory_unevictable_bytes,
        total_cache=stats.memory_cache_bytes,
        total_rss=stats.memory_rss_bytes,
        total_pg_fault=stats.page_faults,
        total_pg_maj_fault=stats.major_page_faults,
        total_mapped_file=stats.memory_mapped_file_bytes,
        total_inactive_anon=stats.memory_inactive_anon_bytes,
        total_active_anon=stats.memory_active_anon_bytes,
        total_inactive_file=stats.memory_inactive_file_bytes,
        total_active_file=stats.memory_active_file_bytes,
        total_unevictable=stats.memory_unevictable_bytes,
        usage=v1.MemoryEntry(
            usage=stats.memory_bytes,
            limit=limit or _NO_LIMIT_V1,
            max=stats.memory_max_bytes,
            failcnt=stats.memory_limit_hits,
        ),
        swap=v1.MemoryEntry(
            usage=stats.memory_bytes + stats.memory_swap_bytes,
            limit=limit + swap_limit if swap_limit else _NO_LIMIT_V1,
        ),
        kernel=v1.MemoryEntry(usage=stats.memory_kernel_bytes, limit=_NO_LIMIT_V1),
        kernel_tcp=v1.MemoryEntry(usage=stats.memory_kernel_tcp_bytes, limit=_NO_LIMIT_V1),
    )


def _entries(uses: Iterable[tuple[DeviceUse, int, int]]) -> Iterator[v1.BlkIOEntry]:
    for use, read, written in uses:
        for op, value in (("Read", read), ("Write", written)):
            yield v1.BlkIOEntry(op=op, major=use.major, minor=use.minor, value=value)


def as_v2(stats: Stats) -> v2.Metrics:
    """Write the metrics of the unified hierarchy, which counts CPU time in microseconds."""
    cpu = v2.CPUStat(
        usage_usec=stats.cpu_usage_ns // _NS_PER_US,
        user_usec=stats.cpu_user_ns // _NS_PER_US,
        system_usec=stats.cpu_system_ns // _NS_PER_US,
        nr_periods=stats.cpu_periods,
        nr_throttled=stats.cpu_throttled_periods,
        throttled_usec=stats.cpu_throttled_ns // _NS_PER_US,
    )
    memory = v2.MemoryStat(
        anon=stats.memory_rss_bytes,
        file=stats.memory_cache_bytes,
        file_mapped=stats.memory_mapped_file_bytes,
        inactive_anon=stats.memory_inactive_anon_bytes,
        active_anon=stats.memory_active_anon_bytes,
        inactive_file=stats.memory_inactive_file_bytes,
        active_file=stats.memory_active_file_bytes,
        unevictable=stats.memory_unevictable_bytes,
        pgfault=stats.page_faults,
        pgmajfault=stats.major_page_faults,
        usage=stats.memory_bytes,
        usage_limit=stats.memory_limit_bytes or _NO_LIMIT_V2,
        swap_usage=stats.memory_swap_bytes,
        swap_limit=stats.memory_swap_limit_bytes or _NO_LIMIT_V2,
        max_usage=stats.memory_max_bytes,
    )
    return v2.Metrics(
        pids=v2.PidsStat(current=stats.pids, limit=stats.pids_limit or _NO_LIMIT_V2),
        cpu=cpu,
        memory=memory,
        io=v2.IOStat(usage=[_entry(use) for use in stats.io]),
        memory_events=v2.MemoryEvents(max=stats.memory_limit_hits, oom_kill=stats.oom_kills),
    )


def _entry(use: DeviceUse) -> v2.IOEntry:
    return v2.IOEntry(
        major=use.major,
        minor=use.minor,
        rbytes=use.read_bytes,
        wbytes=use.write_bytes,
        rios=use.reads,
        wios=use.writes,
    )


def from_v1(metrics: v1.Metrics) -> Stats:
    """Read the metrics of cgroup version 1."""
    memory, throttling = metrics.memory, metrics.cpu.throttling
    return Stats(
        cpu_usage_ns=metrics.cpu.usage.total,
        cpu_user_ns=metrics.cpu.usage.user,
        cpu_system_ns=metrics.cpu.usage.kernel,
        cpu_periods=throttling.periods,
        cpu_throttled_periods=throttling.throttled_periods,
        cpu_throttled_ns=throttling.throttled_time,
        memory_bytes=memory.usage.usage,
        memory_limit_bytes=_limit(memory.usage.limit),
        memory_max_bytes=memory.usage.max,
        memory_cache_bytes=memory.total_cache,
        memory_rss_bytes=memory.total_rss,
        memory_mapped_file_bytes=memory.total_mapped_file,
        memory_inactive_anon_bytes=memory.total_inactive_anon,
        memory_active_anon_bytes=memory.total_active_anon,
        memory_inactive_file_bytes=memory.total_inactive_file,
        memory_active_file_bytes=memory.total_active_file,
        memory_unevictable_bytes=memory.total_unevictable,
        memory_swap_bytes=max(0, memory.swap.usage - memory.usage.usage),
        memory_swap_limit_bytes=max(0, _limit(memory.swap.limit) - _limit(memory.usage.limit)),
        memory_kernel_bytes=memory.kernel.usage,
        memory_kernel_tcp_bytes=memory.kernel_tcp.usage,
        memory_limit_hits=memory.usage.failcnt,
        page_faults=memory.total_pg_fault,
        major_page_faults=memory.total_pg_maj_fault,
        oom_kills=metrics.memory_oom_control.oom_kill,
        pids=metrics.pids.current,
        pids_limit=_limit(metrics.pids.limit),
        io=_uses(metrics.blkio),
    )


def _uses(blkio: v1.BlkIOStat) -> tuple[DeviceUse, ...]:
    sizes = _operations(blkio.io_service_bytes_recursive)
    counts = _operations(blkio.io_serviced_recursive)
    devices = dict.fromkeys((major, minor) for major, minor, _ in (*sizes, *counts))
    return tuple(
        DeviceUse(
            major=major,
            minor=minor,
            read_bytes=sizes.get((major, minor, "Read"), 0),
            write_bytes=sizes.get((major, minor, "Write"), 0),
            reads=counts.get((major, minor, "Read"), 0),
            writes=counts.get((major, minor, "Write"), 0),
        )
        for major, minor in devices
    )


def _operations(entries: Iterable[v1.BlkIOEntry]) -> dict[tuple[int, int, str], int]:
    return {(entry.major, entry.minor, entry.op): entry.value for entry in entries}


def from_v2(metrics: v2.Metrics) -> Stats:
    """Read the metrics of the unified hierarchy."""
    cpu, memory = metrics.cpu, metrics.memory
    return Stats(
        cpu_usage_ns=cpu.usage_usec * _NS_PER_US,
        cpu_user_ns=cpu.user_usec * _NS_PER_US,
        cpu_system_ns=cpu.system_usec * _NS_PER_US,
        cpu_periods=cpu.nr_periods,
        cpu_throttled_periods=cpu.nr_throttled,
        cpu_throttled_ns=cpu.throttled_usec * _NS_PER_US,
        memory_bytes=memory.usage,
        memory_limit_bytes=_limit(memory.usage_limit),
        memory_max_bytes=memory.max_usage,
        memory_cache_bytes=memory.file,
        memory_rss_bytes=memory.anon,
        memory_mapped_file_bytes=memory.file_mapped,
        memory_inactive_anon_bytes=memory.inactive_anon,
        memory_active_anon_bytes=memory.active_anon,
        memory_inactive_file_bytes=memory.inactive_file,
        memory_active_file_bytes=memory.active_file,
        memory_unevictable_bytes=memory.unevictable,
        memory_swap_bytes=memory.swap_usage,
        memory_swap_limit_bytes=_limit(memory.swap_limit),
        memory_limit_hits=metrics.memory_events.max,
        page_faults=memory.pgfault,
        major_page_faults=memory.pgmajfault,
        oom_kills=metrics.memory_events.oom_kill,
        pids=metrics.pids.current,
        pids_limit=_limit(metrics.pids.limit),
        io=tuple(
            DeviceUse(
                major=one.major,
                minor=one.minor,
                read_bytes=one.rbytes,
                write_bytes=one.wbytes,
                reads=one.rios,
                writes=one.wios,
            )
            for one in metrics.io.usage
        ),
    )


def _limit(number: int) -> int:
    return number if number < _NO_LIMIT_FROM else 0
