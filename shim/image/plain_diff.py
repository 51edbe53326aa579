"""How the manifests and specs of two images differ, in lines for readers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shim.image import manifest as manifests
from shim.image.manifest import Manifest, Member
from shim.model import Value
from shim.oci import difference, secret_variables

# Of the manifest itself: what is shown in another way, or differs in any two images.
_NOT_SHOWN = frozenset(
    {
        "spec",
        "spec_digest",
        "members",
        "files",
        "digest",
        "timings_s",
        "warnings",
        "stage",
        "stage_reason",
        "frozen_s",
    }
)
# What identifies an entry of a list in a spec.
_KEYS = ("destination", "path", "type", "file")
_ENV = "env"


class Change(Value):
    """A field that two images have with different values; empty where one has none."""

    field: str
    old: str = ""
    new: str = ""


class ContainerChanges(Value):
    """How one container's spec differs; `added` and the others are names of its environment."""

    name: str
    spec: tuple[Change, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def of_manifests(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """List the fields of the manifests that differ, apart from specs and files."""
    was, now = (
        {name: one for name, one in manifests.to_plain(image).items() if name not in _NOT_SHOWN}
        for image in (old, new)
    )
    return (*_changes(was, now), *_changes(_names(old), _names(new)))


def of_containers(old: Manifest, new: Manifest) -> tuple[ContainerChanges, ...]:
    """List the containers that both images have and whose specs differ."""
    pairs = [(old.root, new.root)]
    others = {one.name: one for one in new.members}
    pairs += [(one, others[one.name]) for one in old.members if one.name in others]
    found = (_of_container(was, now) for was, now in pairs)
    return tuple(one for one in found if one != ContainerChanges(name=one.name))


def _names(image: Manifest) -> dict[str, Any]:
    return {"members": {one.name: "a container" for one in image.members}}


def _of_container(old: Member, new: Member) -> ContainerChanges:
    was, now = _environment(old.spec), _environment(new.spec)
    both = was.keys() & now.keys()
    return ContainerChanges(
        name=new.name or new.task,
        spec=tuple(_changes(_without_environment(old.spec), _without_environment(new.spec))),
        added=tuple(sorted(now.keys() - was.keys())),
        removed=tuple(sorted(was.keys() - now.keys())),
        changed=tuple(sorted(name for name in both if was[name] != now[name])),
    )


def _process(spec: Mapping[str, Any]) -> dict[str, Any]:
    found = spec.get("process")
    return found if isinstance(found, dict) else {}


def _environment(spec: Mapping[str, Any]) -> dict[str, str]:
    lines = _process(spec).get(_ENV)
    pairs = (str(line).partition("=") for line in (lines if isinstance(lines, list) else ()))
    return {name: value for name, _, value in pairs}


def _without_environment(spec: Mapping[str, Any]) -> dict[str, Any]:
    process = {name: one for name, one in _process(spec).items() if name != _ENV}
    # What is left are variables of hooks.
    found: dict[str, Any] = secret_variables.masked({**spec, "process": process})
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    was, now = dict(_leaves(old, "")), dict(_leaves(new, ""))
    for field in dict.fromkeys((*was, *now)):
        if was.get(field) != now.get(field):
            before, after = difference.both_shown(was.get(field), now.get(field))
            yield Change(field=field, old=before, new=after)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each value of nested objects with its dotted field; entries of lists by their keys."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list) and value and all(_key(one) for one in value):
        for one in value:
            yield from _leaves(_rest(one), f"{where}[{one[_key(one)]}]")
    else:
        yield where, value if value not in ([], {}, "") else None


def _key(entry: Any) -> str:
    if not isinstance(entry, dict):
        return ""
    return next((name for name in _KEYS if isinstance(entry.get(name), str)), "")


def _rest(entry: Mapping[str, Any]) -> Any:
    """Return an entry without its key; one that has nothing else is there, and no more."""
    return {name: one for name, one in entry.items() if name != _key(entry)} or "there"
