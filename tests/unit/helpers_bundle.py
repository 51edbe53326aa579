"""A bundle of the installer of Kubernetes nodes, whose programs do nothing."""

from __future__ import annotations

from pathlib import Path

from hack.kubernetes.node import bundle

UNIT = Path(__file__).parents[2] / "packaging/systemd/cryo.service"


def small_bundle(folder: Path) -> Path:
    """Write a bundle with a loader and nothing to load."""
    (folder / "bin").mkdir(parents=True)
    (folder / bundle.LIBRARIES).mkdir()
    (folder / "lib/python3.11/site-packages").mkdir(parents=True)
    (folder / bundle.LIBRARIES / bundle.LOADER).write_text("", "utf-8")
    (folder / bundle.VERSION).write_text(f"{folder.name}\n", "utf-8")
    (folder / UNIT.name).write_text(UNIT.read_text("utf-8"), "utf-8")
    return folder
