"""The complete tables of operations: that of containerd's tasks, and that of cryo.v1."""

from __future__ import annotations

# A module adds its operations to a table when it is imported.
from shim.service import (
    clone_operations,
    cryo_operations,
    event_operations,
    examine_operations,
    image_operations,
    store_operations,
    task_operations,
    timeline_operations,
    transfer_operations,
    trust_operations,
)
from shim.service.cryo_table import CRYO

TASK = task_operations.TASK

__all__ = [
    "CRYO",
    "TASK",
    "clone_operations",
    "cryo_operations",
    "event_operations",
    "examine_operations",
    "image_operations",
    "store_operations",
    "timeline_operations",
    "transfer_operations",
    "trust_operations",
]
