"""The table of the operations of cryo.v1, which the modules of operations fill."""

from __future__ import annotations

from shim.service.operation import Table

CRYO = Table("cryo.v1.Cryo")
