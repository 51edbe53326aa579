"""What `cryo install containerd` and `cryo uninstall containerd` change."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from shim.errors import FailedPrecondition
from shim.install import containerd
from shim.install.config_file import Change, read
from shim.install.links import Link
from shim.install.plan import Plan
from shim.install.runtime import HANDLER, Runtime

CONFIG = Path("/etc/containerd/config.toml")
RESTART = "systemctl restart containerd"


def install(config: Path, link: Link, settings: str = "") -> Plan:
    """Plan the entry for the runtime, whose shims read `settings`, and the link.

    The entry is a drop-in file where a directory of them is imported, else it is in `config`.

    Raises:
        CryoError: it cannot be installed as things are.
    """
    link.check()
    make = None if link.is_made else link
    text = read(config)
    if not containerd.has_cri(containerd.parsed(text, config)):
        note = f"{config} disables the CRI plugin; ctr and nerdctl need no entry there"
        return Plan((), make=make, notes=(note,))
    runtime = Runtime("" if link.on_path else str(link.path), settings)
    change = _addition(config, text, runtime)
    return Plan((change,), make=make, restart=RESTART) if change else Plan((), make=make)


def uninstall(config: Path, link: Link, *, link_is_used: bool) -> Plan:
    """Plan the removal of the entry, and of the link unless something else uses it.

    Raises:
        CryoError: it cannot be removed as things are.
    """
    text = read(config)
    changes = [Change(config, text, containerd.removed(text, config))]
    for path, found in _imported(config, text):
        _check_not_default(path, found)
        if path.name == containerd.DROP_IN:
            changes.append(Change(path, found, containerd.without_drop_in(found, path)))
        elif containerd.handler(containerd.parsed(found, path)) is not None:
            message = f"the runtime {HANDLER} is in {path}, which {config} imports"
            remedy = f"cryo uninstall containerd --config {path}"
            raise FailedPrecondition(message, remedy=remedy)
    _check_not_default(config, text)
    done = tuple(change for change in changes if change)
    return Plan.of_removal(done, link, RESTART, link_is_used=link_is_used)


def has_runtime() -> bool:
    """Return whether the host's configuration has the runtime.

    Raises:
        CryoError: it cannot be read.
    """
    config = CONFIG.resolve()
    text = read(config)
    files: tuple[tuple[Path, str | None], ...] = ((config, text), *_imported(config, text))
    return any(containerd.handler(containerd.parsed(one, path)) is not None for path, one in files)


def _addition(config: Path, text: str | None, runtime: Runtime) -> Change | None:
    version = containerd.version_of(text, config)
    for path, found in _imported(config, text):
        imported = containerd.parsed(found, path)
        entry = containerd.handler(imported)
        if entry is not None:
            runtime.check(entry, path)
            return None
        if version < containerd.MERGES and containerd.sets_cri(imported):
            message = f"{path}, imported by {config}, replaces its CRI plugin in containerd 1.x"
            remedy = f"cryo install containerd --config {path}"
            raise FailedPrecondition(message, remedy=remedy)
    after = containerd.added(text, runtime, config)
    folder = containerd.drop_in_folder(text, config)
    if after == text or folder is None or not folder.is_dir():
        return Change(config, text, after) if after != text else None
    path = folder / containerd.DROP_IN
    return Change(path, read(path), containerd.drop_in(version, runtime))


def _imported(config: Path, text: str | None) -> Iterator[tuple[Path, str]]:
    """Yield the files that a configuration imports, by patterns relative to its directory."""
    for pattern in containerd.imports(containerd.parsed(text, config)):
        for name in sorted(glob.glob(str(config.parent / pattern))):  # noqa: PTH207 - absolute
            path = Path(name)
            yield path, read(path.resolve()) or ""


def _check_not_default(path: Path, text: str | None) -> None:
    if containerd.is_default(containerd.parsed(text, path)):
        message = f"{HANDLER} is the default_runtime_name in {path}"
        raise FailedPrecondition(message, remedy="name another one there, such as runc")
