"""The runtime `cryo` in the text of containerd's config.toml: add it, find it, remove it.

Each function takes a text and returns one; None is a file that does not exist. What is added are
tables at the end, each below a line of ours, and all else stays as it is. `removed` undoes `added`
byte for byte.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shim.errors import FailedPrecondition, InvalidArgument
from shim.install import toml_text
from shim.install.runtime import HANDLER, Runtime

DROP_IN = "cryoshim.toml"
MARK = "# Cryoshim: its installer has added this, and removes it.\n"
_ADDED_VERSION = "version = 2  # Cryoshim: its installer has added this line, and removes it.\n"
_MADE_FILE = "version = 2  # Cryoshim: its installer has made this file, and removes it.\n"

# The plugin with the runtimes, by the version of the format.
_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
# containerd 1.x and 2.x read a file of this version; only 2.x those after it.
_OLDEST = 2
# From this version on a file is read by containerd 2.x only, which merges what a file imports.
MERGES = 3
# The names of the CRI plugin in `disabled_plugins`.
_CRI = frozenset({"cri", *_PLUGINS.values()})
# containerd 1.x has either its own runtimes or those of its file, and must find the default one.
_RUNC = {"runtime_type": "io.containerd.runc.v2"}


def added(text: str | None, runtime: Runtime, file: Path) -> str:
    """Return the text with the runtime, or as it is if it has the runtime already.

    Raises:
        InvalidArgument: it is not TOML.
        AlreadyExists: it has another runtime of this name.
        FailedPrecondition: its format is of version 1, or the runtimes are an inline table.
    """
    config = parsed(text, file)
    version = _version(config, file)
    if (found := handler(config)) is not None:
        runtime.check(found, file)
        return text or ""
    blocks = [_table(version, HANDLER, runtime.keys())]
    if version < MERGES and not _runtimes(config):
        blocks.insert(0, _table(version, "runc", _RUNC))
    result = text or ""
    if "version" not in config:
        result = toml_text.append(result, _MADE_FILE if text is None else _ADDED_VERSION)
    for block in blocks:
        result = toml_text.append(result, block)
    try:
        tomllib.loads(result)
    except tomllib.TOMLDecodeError as error:
        message = f"the runtimes in {file} cannot be extended by a table: {error}"
        raise FailedPrecondition(message, remedy="define each runtime in a table") from error
    return result


def removed(text: str | None, file: Path) -> str | None:
    """Return the text without the runtime; all else stays.

    Raises:
        InvalidArgument: it is not TOML.
        FailedPrecondition: the runtime is not a table of its own.
    """
    if text is None:
        return None
    result = text
    for name in _PLUGINS.values():
        result = _without(result, (*_path(name), HANDLER))
    config = parsed(result, file)
    if handler(config) is not None:
        message = f"the runtime {HANDLER} in {file} is not a table of its own"
        raise FailedPrecondition(message, remedy="remove it with an editor")
    if _runtimes(config) == {"runc": _RUNC}:
        for name in _PLUGINS.values():
            result = _without(result, (*_path(name), "runc"), only_marked=True)
    return _without_version(result, file)


def drop_in(version: int, runtime: Runtime) -> str:
    """Return the text of a file for the runtime alone."""
    return f"version = {version}\n\n{_table(version, HANDLER, runtime.keys())}"


def without_drop_in(text: str, file: Path) -> str | None:
    """Return such a file without the runtime; None if nothing of others is in it."""
    rest = removed(text, file)
    lines = (rest or "").splitlines()
    return rest if any(line and not line.startswith("version = ") for line in lines) else None


def drop_in_folder(text: str | None, file: Path) -> Path | None:
    """Return the first directory whose .toml files a config.toml imports.

    None, too, for a file that containerd 1.x reads: there a drop-in with a table of a plugin
    replaces all settings of that plugin.
    """
    config = parsed(text, file)
    if _version(config, file) < MERGES:
        return None
    patterns = [Path(pattern) for pattern in imports(config)]
    return next((p.parent for p in patterns if p.is_absolute() and p.name == "*.toml"), None)


def imports(config: Mapping[str, Any]) -> list[str]:
    """Return the patterns of the files that a configuration imports."""
    return [str(pattern) for pattern in config.get("imports", [])]


def version_of(text: str | None, file: Path) -> int:
    """Return the version of the format; that of a new file is the oldest with plugin names.

    Raises:
        FailedPrecondition: it is older.
    """
    return _version(parsed(text, file), file)


def parsed(text: str | None, file: Path) -> dict[str, Any]:
    """Parse a text.

    Raises:
        InvalidArgument: it is not TOML.
    """
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        message = f"{file} is not valid TOML: {error}"
        raise InvalidArgument(message, remedy="correct it; containerd does not read it") from error


def handler(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the runtime `cryo` of a configuration."""
    found: Mapping[str, Any] | None = _runtimes(config).get(HANDLER)
    return found


def is_default(config: Mapping[str, Any]) -> bool:
    """Return whether pods that name no runtime run in this one."""
    return any(
        _section(config, name).get("default_runtime_name") == HANDLER for name in _PLUGINS.values()
    )


def has_cri(config: Mapping[str, Any]) -> bool:
    """Return whether containerd serves Kubernetes."""
    return not _CRI.intersection(config.get("disabled_plugins", []))


def sets_cri(config: Mapping[str, Any]) -> bool:
    """Return whether a file has settings of the plugin with the runtimes."""
    return any(name in config.get("plugins", {}) for name in _PLUGINS.values())


def _version(config: Mapping[str, Any], file: Path) -> int:
    version = config.get("version", 0 if config else _OLDEST)
    if not isinstance(version, int) or version < _OLDEST:
        message = f"{file} has the format of version {version or 1}"
        raise FailedPrecondition(message, remedy="convert it with `containerd config migrate`")
    return version


def _section(config: Mapping[str, Any], plugin: str) -> Mapping[str, Any]:
    found = config.get("plugins", {}).get(plugin, {})
    section: Mapping[str, Any] = found.get("containerd", {})
    return section


def _runtimes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: table
        for plugin in _PLUGINS.values()
        for name, table in _section(config, plugin).get("runtimes", {}).items()
    }


def _path(plugin: str) -> tuple[str, ...]:
    return ("plugins", plugin, "containerd", "runtimes")


def _table(version: int, name: str, keys: Mapping[str, Any]) -> str:
    plugin = _PLUGINS[min(version, max(_PLUGINS))]
    header = f'plugins."{plugin}".containerd.runtimes.{name}'
    lines = [f"[{header}]"]
    for key, value in keys.items():
        if isinstance(value, dict):
            lines.append(f"  [{header}.{key}]")
            lines += [f"    {inner} = {_value(of)}" for inner, of in value.items()]
        else:
            lines.append(f"  {key} = {_value(value)}")
    return MARK + "".join(f"{line}\n" for line in lines)


def _value(value: str | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _without(text: str, path: toml_text.Path, *, only_marked: bool = False) -> str:
    for table in reversed(toml_text.tables(text)):
        if table.path[: len(path)] != path:
            continue
        above = toml_text.line_before(text, table.begin)
        marked = above.rstrip("\r\n") == MARK.rstrip("\n")
        if marked or not only_marked:
            begin = table.begin - len(above) if marked else table.begin
            text = toml_text.cut(text, begin, table.end)
    return text


def _without_version(text: str, file: Path) -> str | None:
    """Remove the line that was needed for the tables alone, or the file that has nothing else."""
    if text.rstrip("\r\n") == _MADE_FILE.rstrip("\n"):
        return None
    line = _ADDED_VERSION.rstrip("\n")
    begin = text.find(line)
    if begin < 0 or parsed(text, file).keys() != {"version"}:
        return text
    end = text.find("\n", begin) + 1 or len(text)
    return toml_text.cut(text, begin, end)
