"""Normalizes a spec so that runsc's restore validation accepts it unchanged. Pure.

That validation rejects, even in an unchanged spec, a list that is empty rather than absent, and one
with a repeated entry (measured on the build of 2026-09-05; source: runsc/specutils/restore.go).
Neither has a meaning, so containers are created without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
# What may differ between the pods of one template.
_OF_THE_NODE = (("process", "selinuxLabel"), ("process", "oomScoreAdj"), ("linux", "mountLabel"))
# The fields, as `compare` names them, that a restore takes from the image.
FITTED = ("ociVersion", *(".".join(path) for path in _OF_THE_NODE))
_MAPS = (("linux", "timeOffsets"), ("linux", "netDevices"))


def restorable(spec: Spec) -> Spec:
    """Return the spec without empty lists and repeated entries; the same object if it has none."""
    data = _without_empty_lists(spec.data)
    for path in _SETS:
        _change(data, path, _unique)
    for path in _MAPS:
        _change(data, path, lambda value: value or None)
    return spec if data == spec.data else document.parse(data, spec.bundle, restoring=True)


def fitted(spec: Spec, saved: Spec) -> Spec:
    """Return the spec with the saved values of what runsc only compares.

    These are the OCI version, and what a node or the kubelet gives each new pod: SELinux labels
    and the OOM score.
    """
    data = {**spec.data, "ociVersion": saved.view.oci_version}
    for path in _OF_THE_NODE:
        _replace(data, path, saved.data)
    return spec if data == spec.data else document.parse(data, spec.bundle, restoring=True)


def _replace(data: dict[str, Any], path: tuple[str, str], saved: Mapping[str, Any]) -> None:
    """Set a value below an object of the spec to the saved one, or remove it."""
    outer, name = path
    kept = {key: one for key, one in (data.get(outer) or {}).items() if key != name}
    if name in (before := saved.get(outer) or {}):
        kept[name] = before[name]
    if kept or outer in data:
        data[outer] = kept


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


def _unique(entries: Any) -> Any:
    if not isinstance(entries, list):
        return entries
    return list({json.dumps(one, sort_keys=True): one for one in entries}.values())
