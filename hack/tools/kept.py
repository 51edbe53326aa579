"""Stores programs in the cache, and finds them there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hack.tools.cache import is_unchanged, record_of, write_json
from hack.tools.running import NotHere
from hack.tools.tool import Choice, Tool


def keep(tool: Tool, cache: Path, made: Path, source: str) -> Choice:
    """Move programs from a directory into the cache, and record their checksums."""
    folder = tool.folder(cache)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in tool.programs:
        (made / name).chmod(0o755)
        (made / name).rename(folder / name)
    files = {name: record_of(folder / name) for name in tool.programs}
    write_json(folder / "origin.json", {"source": source, "files": files})
    return tool.choice(folder / tool.programs[0], source, sha256=digest(tool, files))


def from_cache(tool: Tool, cache: Path) -> Choice:
    """Use the programs of an earlier run, if they are unchanged."""
    folder = tool.folder(cache)
    try:
        origin = json.loads((folder / "origin.json").read_text("utf-8"))
        files, source = origin["files"], origin["source"]
        changed = [n for n in tool.programs if not is_unchanged(folder / n, files[n])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = "cache: not cached yet"
        raise NotHere(message) from error
    if changed:
        message = f"cache: {folder / changed[0]} was changed"
        raise NotHere(message)
    return tool.choice(folder / tool.programs[0], source, sha256=digest(tool, files))


def digest(tool: Tool, files: dict[str, dict[str, object]]) -> str:
    """Return the checksum of the tool's first program."""
    return str(files[tool.programs[0]]["sha256"])
