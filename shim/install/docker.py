"""The runtime `cryo` in the text of Docker's daemon.json: add it, find it, remove it.

As in `shim.install.containerd`, None is a file that does not exist, and `removed` undoes `added`
byte for byte. JSON has no comments, so white space says what was added: an object that was made for
the runtime has none before its first member, and one that was there and empty has a space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shim.install import json_text
from shim.install.runtime import HANDLER, TYPE

_RUNTIMES = "runtimes"
_REMEDY = "correct it; Docker does not start with it"


def added(text: str | None, settings: str, file: Path) -> str:
    """Return the text with the runtime, or as it is if it has the runtime already.

    `settings` is the path of the shim's config.toml, if it is not that of the host.

    Raises:
        InvalidArgument: it is not a JSON object.
        AlreadyExists: it has another runtime of this name.
    """
    config = parsed(text, file)
    wanted = _entry(settings)
    found = _runtimes(config, file).get(HANDLER)
    if found == wanted:
        return text or ""
    if found is not None:
        message = f"{file} has another runtime {HANDLER}: {json.dumps(found)}"
        raise AlreadyExists(message, remedy="remove it: `cryo uninstall docker`, or with an editor")
    member = f'"{HANDLER}": {json.dumps(wanted)}'
    if text is None:
        return json.dumps({_RUNTIMES: {HANDLER: wanted}}, indent=2) + "\n"
    if not text.strip():
        return f'{{ "{_RUNTIMES}": {{{member}}} }}{text}'
    begin = json_text.start(text)
    runtimes = json_text.find(text, begin, _RUNTIMES)
    if runtimes is None:
        return _add_first(text, begin, f'"{_RUNTIMES}": {{{member}}}')
    return json_text.add(text, runtimes.value, member)


def removed(text: str | None, file: Path) -> str | None:
    """Return the text without the runtime; all else stays.

    Raises:
        InvalidArgument: it is not a JSON object.
    """
    found = _runtimes(parsed(text, file), file).get(HANDLER)
    if text is None or found is None:
        return text
    if text == json.dumps({_RUNTIMES: {HANDLER: found}}, indent=2) + "\n":
        return None
    begin = json_text.start(text)
    runtimes = json_text.find(text, begin, _RUNTIMES)
    entry = json_text.find(text, runtimes.value, HANDLER) if runtimes else None
    if runtimes is None or entry is None:
        return text
    alone = text[runtimes.value : runtimes.end] == f"{{{text[entry.begin : entry.end]}}}"
    if not alone:
        return json_text.remove(text, runtimes.value, entry)
    return _remove_first(text, begin, runtimes)


def parsed(text: str | None, file: Path) -> dict[str, Any]:
    """Parse a text; an empty file has no settings.

    Raises:
        InvalidArgument: it is not a JSON object.
    """
    try:
        config = json.loads(text) if text and text.strip() else {}
    except ValueError as error:
        message = f"{file} is not valid JSON: {error}"
        raise InvalidArgument(message, remedy=_REMEDY) from error
    if not isinstance(config, dict):
        message = f"{file} is not a JSON object"
        raise InvalidArgument(message, remedy=_REMEDY)
    return config


def check_not_default(config: Mapping[str, Any], file: Path) -> None:
    """Check that containers that name no runtime do not run in this one.

    Raises:
        FailedPrecondition: they do.
    """
    if config.get("default-runtime") == HANDLER:
        message = f"{HANDLER} is the default-runtime in {file}"
        raise FailedPrecondition(message, remedy="name another default-runtime, or none, there")


def has_runtime(config: Mapping[str, Any], file: Path) -> bool:
    """Return whether a configuration has the runtime."""
    return HANDLER in _runtimes(config, file)


def _entry(settings: str) -> dict[str, Any]:
    options = {"options": {"ConfigPath": settings}} if settings else {}
    return {"runtimeType": TYPE, **options}


def _runtimes(config: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    found = config.get(_RUNTIMES, {})
    if not isinstance(found, dict):
        message = f'"{_RUNTIMES}" in {file} is not an object'
        raise InvalidArgument(message, remedy=_REMEDY)
    return found


def _add_first(text: str, begin: int, member: str) -> str:
    """Add the first member of the outermost object; an empty object gets no white space."""
    if json_text.members(text, begin):
        return json_text.add(text, begin, member)
    return f"{text[: begin + 1]}{member}{text[begin + 1 :]}"


def _remove_first(text: str, begin: int, member: json_text.Member) -> str:
    """Remove a member; an object that only this program can have made goes with it."""
    made = f"{{ {text[member.begin : member.end]} }}"
    if text.rstrip() == made:
        return text.removeprefix(made)
    return json_text.remove(text, begin, member)
