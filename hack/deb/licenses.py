"""The licenses of the packages in Python that the Debian package contains."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PathDistribution
from pathlib import Path

from hack.deb.tree import PACKAGES
from hack.kubernetes.node.bundle import DISTRIBUTION

# Wheels without a license; these are the licenses of their repositories.
_UNNAMED = {"obstore": "MIT"}


def stanzas(packages: Path) -> str:
    """Return a stanza of debian/copyright for each distribution in a directory but ours."""
    found = sorted(packages.glob("*.dist-info"))
    distributions = [PathDistribution(path) for path in found]
    others = [one for one in distributions if one.name != DISTRIBUTION]
    return "".join("\n" + "\n".join(_stanza(one)) + "\n" for one in others)


def _stanza(distribution: PathDistribution) -> Iterator[str]:
    name = distribution.name
    info = f"{name.replace('-', '_')}-{distribution.version}.dist-info"
    parts = {Path(str(path)).parts[0] for path in distribution.files or ()} - {"..", "bin"}
    yield "Files: " + "\n ".join(f"{PACKAGES}/{_any_version(part)}" for part in sorted(parts))
    yield f"Copyright: The authors of {name} {distribution.version}"
    yield f"License: {license_of(distribution)}"
    yield f" The text is in /{PACKAGES}/{info}."


def _any_version(name: str) -> str:
    """Return the pattern for the same extension module of each version of Python."""
    head, found, _ = name.partition(".cpython-")
    return f"{head}.cpython-*" if found else name


def license_of(distribution: PathDistribution) -> str:
    """Return the name of a distribution's license; without one, the first line of its text.

    Raises:
        ValueError: it has neither.
    """
    for key in ("License-Expression", "License"):
        value = distribution.metadata[key].strip() if key in distribution.metadata else ""
        if value and "\n" not in value:
            return value
    for path in distribution.files or ():
        if path.name == "LICENSE" and (lines := path.read_text("utf-8").split("\n")):
            return lines[0].strip()
    if distribution.name in _UNNAMED:
        return _UNNAMED[distribution.name]
    message = f"{distribution.name} names no license"
    raise ValueError(message)
