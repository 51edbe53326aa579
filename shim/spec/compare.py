"""Does a bundle fit an image? What a restore cannot change, compared before anything is made.

Newer runsc refuses such differences itself, late; older ones take them silently and go on with what
was saved. What may differ (environment, host name, mount sources, cgroups) is not compared.
"""

from __future__ import annotations

from shim.errors import InvalidArgument
from shim.spec.document import Spec


def _facts(spec: Spec) -> dict[str, object]:
    process = spec.data.get("process") or {}
    return {
        "process.args": spec.args,
        "process.cwd": process.get("cwd", "/"),
        "process.user": process.get("user") or {},
        "process.terminal": spec.terminal,
        "root.readonly": spec.readonly,
        "mounts": sorted(mount.destination for mount in spec.mounts),
        "devices": sorted(device.path for device in spec.devices),
    }


def check_same(saved: Spec, given: Spec) -> None:
    """Check that a restore with `given` brings back what was saved with `saved`.

    Raises:
        InvalidArgument: it would not; the message names each part that differs.
    """
    old, new = _facts(saved), _facts(given)
    differ = [name for name, value in old.items() if new[name] != value]
    if differ:
        message = f"the bundle differs from the one in the image: {', '.join(differ)}"
        raise InvalidArgument(
            message, remedy="leave out --bundle, or use the bundle that was saved"
        )
