"""Settings of the host on which speed depends: adjusted, or reported where they are slow."""

from __future__ import annotations

from shim.config import Config
from shim.cuda import inventory
from shim.errors import CryoError
from shim.host import hugepages
from shim.transaction import memory

_SMALL_PAGES = (
    "this host backs sandboxes with small pages, so that freezing GPU memory takes twice as long: "
    'set huge_pages = "adjust" under [host] in config.toml'
)
# The warnings that this process has given.
_given: set[str] = set()


def adjust(config: Config) -> str:
    """Set what `[host]` lets us set; return what was changed, or why not, or an empty text."""
    if config.host.huge_pages != "adjust":
        return ""
    try:
        return hugepages.adjust()
    except CryoError as error:
        return f"huge pages could not be enabled: {error}"


def warnings(config: Config) -> tuple[str, ...]:
    """Return a warning for each setting that slows GPU processes down, with a GPU. Blocks."""
    if config.host.huge_pages == "ignore":
        return ()
    if not inventory.read(config.cuda.nvidia_proc).gpus or hugepages.are_used():
        return ()
    return (_SMALL_PAGES,)


def new_warnings(config: Config) -> tuple[str, ...]:
    """Return the warnings that this process has not given yet."""
    found = tuple(text for text in warnings(config) if text not in _given)
    _given.update(found)
    return found


async def persistence(config: Config) -> str:
    """Say whether the persistence mode of the GPUs is on: without it the driver starts slowly."""
    if not inventory.read(config.cuda.nvidia_proc).gpus:
        return "no GPU"
    try:
        off = await memory.without_persistence(config)
    except CryoError as error:
        return f"unknown: {error.message}"
    if not off:
        return "on"
    return (
        f"off for {', '.join(off)}: each start of a GPU process may take seconds longer; "
        "run nvidia-persistenced, or nvidia-smi -pm 1"
    )
