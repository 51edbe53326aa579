"""Normalizes a spec so that runsc's restore validation accepts it unchanged. Pure.

That validation rejects, even in an unchanged spec, a list that is empty rather than absent, and one
with a repeated entry (measured on the build of 2026-09-05; source: runsc/specutils/restore.go).
Neither has a meaning, so containers are created without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from shim.oci import document
from shim.oci.document import Spec

# Paths of lists whose order and repetitions have no meaning.
_SETS = (
    *(
        ("process", "capabilities", name)
        for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
    ),
    ("process", "rlimits"),
    ("linux", "uidMappings"),
    ("linux", "gidMappings"),
    ("linux", "namespaces"),
)
_MAPS = (("linux", "timeOffsets"), ("linux", "netDevices"))


def restorable(spec: Spec) -> Spec:
    """Return the spec without empty lists and repeated entries; the same object if it has none."""
    data = _without_empty_lists(spec.data)
    for path in _SETS:
        _change(data, path, _once)
    for path in _MAPS:
        _change(data, path, lambda value: value or None)
    return spec if data == spec.data else document.parse(data, spec.bundle, restoring=True)


def fitted(spec: Spec, saved: Spec) -> Spec:
    """Return the spec with the saved OCI version, which runsc only compares."""
    version = saved.view.oci_version
    if spec.view.oci_version == version:
        return spec
    return document.parse({**spec.data, "ociVersion": version}, spec.bundle, restoring=True)


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if one != []}
        return {key: _without_empty_lists(one) for key, one in kept.items()}
    if isinstance(value, list):
        return [_without_empty_lists(one) for one in value]
    return value


def _change(data: dict[str, Any], path: tuple[str, ...], change: Callable[[Any], Any]) -> None:
    """Replace the value at a path, or remove it if it becomes None."""
    *parents, name = path
    place: Any = data
    for key in parents:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or name not in place:
        return
    value = change(place[name])
    if value is None:
        del place[name]
    else:
        place[name] = value


def _once(entries: Any) -> Any:
    if not isinstance(entries, list):
        return entries
    return list({json.dumps(one, sort_keys=True): one for one in entries}.values())
