"""The plots of docs/performance.md, by the ends of their names."""

from __future__ import annotations

from hack.bench.plot import Plot

_PAIR = (("plain", "plain runsc"), ("ours", "Cryoshim"))

PLOTS = {
    "frozen": Plot("frozen", "Time that a task stands still in a checkpoint", "MiB", "ms", _PAIR),
    "durable": Plot("durable", "Checkpoint until it is durable", "MiB", "ms", _PAIR),
    "restore": Plot("restore", "Restore", "MiB", "ms", _PAIR),
    "first-background": Plot(
        "first-background",
        "Restore in the background, to the first instruction",
        "MiB",
        "ms",
        _PAIR,
    ),
    "moves": Plot(
        "moves",
        "Look, freeze and thaw of GPU processes",
        "processes",
        "ms",
        (("script", "runsc exec, one by one"), ("native", "the same in C"), ("phased", "Cryoshim")),
    ),
    "clones": Plot("clones", "Copies of an image with 256 MiB at once", "copies", "ms", _PAIR),
    "memory": Plot(
        "memory",
        "Memory of the shim of each pod (PSS)",
        "pods",
        "MiB",
        (("cryo", "Cryoshim"), ("runsc", "gVisor's shim"), ("runc", "runc's shim")),
    ),
}
