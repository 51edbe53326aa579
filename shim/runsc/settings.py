"""The top-level flags of runsc that an image depends on, and whether two sets are compatible.

Measured on the builds of 2024-07-29 and 2026-09-05, each flag in both directions. These made no
difference: file-access, file-access-mounts, host-uds, host-fifo, net-raw, oci-seccomp,
allow-suid, character-device-policy, fuse, app-huge-pages, and the folder of `root:dir=`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from shim.model import Value
from shim.oci.document import Spec, SpecMount

# The defaults of both builds (`runsc flags`).
_DEFAULTS = {
    "directfs": "true",
    "file-access": "exclusive",
    "network": "sandbox",
    "overlay2": "root:self",
    "platform": "systrap",
}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_IN_MEMORY = "memory"


class Mismatch(Value):
    """A flag whose value at the restore is incompatible with that at the save, and why."""

    flag: str
    saved: str
    given: str
    why: str

    @property
    def remedy(self) -> str:
        """Describe the required value; for an overlay on disk any folder works."""
        if "dir=" in self.saved:
            where = self.saved.partition(":")[0]
            return f'set {self.flag} = "{where}:dir=FOLDER" under [runsc.flags], with any FOLDER'
        return f'set {self.flag} = "{self.saved}" under [runsc.flags], as it was at the save'


def is_on(flags: Mapping[str, str], name: str) -> bool:
    """Whether a flag of runsc is set, in a spelling that Go takes for true."""
    return flags.get(name, "") in _TRUE


def validation(flags: Mapping[str, str]) -> str:
    """Return how runsc treats a spec that differs at a restore: enforce, warning or ignore."""
    return flags.get("restore-spec-validation", "enforce")


def of_sandbox(command_line: Sequence[str]) -> dict[str, str] | None:
    """Parse the flags of a running sandbox: runsc passes it all that differ from the defaults.

    They stay the same when the configured ones change. None if the process is not a sandbox.
    """
    words = list(command_line)
    top = words[1 : words.index("boot")] if "boot" in words else []
    pairs = (word.removeprefix("--").partition("=") for word in top if word.startswith("--"))
    found = {name: value for name, _, value in pairs}
    return found if "root" in found else None


def recorded(flags: Mapping[str, str]) -> dict[str, str]:
    """Return the effective values of the flags that a manifest records."""
    return {name: flags.get(name, default) for name, default in _DEFAULTS.items()}


def mismatches(
    saved: Mapping[str, str], flags: Mapping[str, str], specs: Iterable[Spec]
) -> tuple[Mismatch, ...]:
    """List the flags that prevent a restore; none if the image, an older one, records no flags."""
    if not saved:
        return ()
    old, new = recorded(saved), recorded(flags)
    return tuple(
        Mismatch(flag=name, saved=old[name], given=new[name], why=why)
        for name, why in _reasons(old, new, tuple(specs))
        if old[name] != new[name]
    )


def _reasons(
    old: Mapping[str, str], new: Mapping[str, str], specs: tuple[Spec, ...]
) -> Iterator[tuple[str, str]]:
    if _on_disk(old["overlay2"], specs) != _on_disk(new["overlay2"], specs):
        yield "overlay2", "files of the overlay are in memory for one and on disk for the other"
    if (old["network"] == "host") != (new["network"] == "host"):
        yield "network", "the network stack is the host's for one and gVisor's for the other"
    if is_on(old, "directfs") != is_on(new, "directfs"):
        yield "directfs", "open files are accessed in another way"
    if new["platform"] == "ptrace":
        yield "platform", "restored programs exit with SIGILL"


def _on_disk(overlay2: str, specs: tuple[Spec, ...]) -> tuple[bool, bool]:
    """Return whether overlay files are on disk, for root filesystems and for mounts.

    Only writable ones have an overlay. runsc does not compare the folder.
    """
    where, _, medium = overlay2.partition(":")
    if not medium or medium.partition(",")[0] == _IN_MEMORY:
        return False, False
    roots = any(not spec.readonly for spec in specs)
    mounts = any(_is_writable_bind(mount) for spec in specs for mount in spec.mounts)
    return roots, where == "all" and mounts


def _is_writable_bind(mount: SpecMount) -> bool:
    options = mount.options or ()
    return (mount.type == "bind" or not {"bind", "rbind"}.isdisjoint(options)) and (
        "ro" not in options
    )
