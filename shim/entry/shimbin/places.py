"""Where a shim's things are: its socket, the nursery's, and its part of the state folder.

Names that `start` needs are made without reading config.toml: reading it takes as long as the rest
of `start`.
"""

from __future__ import annotations

import _socket
import binascii
import os
import sys

from shim import __version__

_CONFIG = "/etc/cryo/config.toml"
_VARIABLE = "CRYO_CONFIG"
# In a bundle whose runtime options name other settings: where those are, for `delete`.
_SETTINGS = "cryo.settings"
_SOCKETS = "/run/containerd/s"
NURSERY_FOLDER = "/run/cryo"
# In a bundle; containerd 1.x reads it when it starts anew.
_ADDRESS = "address"
_SCHEME = "unix://"
_PROBE_S = 2.0
_LIMIT = 4096
# Of containerd's own ids (pkg/identifiers).
_ID_MAX = 76


def config_path() -> str:
    """Return the settings file: $CRYO_CONFIG, or the usual one."""
    return os.environ.get(_VARIABLE) or _CONFIG


def use_settings(path: str, text: bytes) -> None:
    """Use the settings that the runtime options name, or have in them, from here on.

    Equal texts are one file, so that the containers of a pod find the same shim.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if text:
        path = f"{NURSERY_FOLDER}/settings-{binascii.crc32(text):08x}-{len(text)}.toml"
        os.makedirs(NURSERY_FOLDER, mode=0o700, exist_ok=True)  # noqa: PTH103 - loads too much
        _write(f"{path}.{os.getpid()}", text)
        os.replace(f"{path}.{os.getpid()}", path)  # noqa: PTH105 - see above
    if not path:
        return
    if not os.path.isfile(path):  # noqa: PTH113 - see above
        message = f"the runtime options name {path}, and there is no such file"
        raise FileNotFoundError(message)
    os.environ[_VARIABLE] = path
    _write(_SETTINGS, os.fsencode(path))


def recall_settings(bundle: str) -> None:
    """Use the settings that `start` used for this bundle."""
    try:
        with open(f"{bundle}/{_SETTINGS}", "rb") as file:  # noqa: PTH123 - loads too much
            os.environ[_VARIABLE] = os.fsdecode(file.read(_LIMIT))
    except OSError:
        return  # the usual ones


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(data)


def _short(*parts: str) -> str:
    return f"{binascii.crc32(chr(0).join(parts).encode()):08x}"


def of_containerd(state: str, address: str) -> str:
    """Return the part of the state folder for the tasks of one containerd."""
    return f"{state}/shims/{_short(address)}"


def shim_socket(address: str, namespace: str, group: str) -> str:
    """Name the socket of the shim of a group; short enough for a socket with any id."""
    return f"{_SOCKETS}/{_short(config_path(), address, namespace)}-{_plain(group)}"


def _plain(group: str) -> str:
    """Make what an annotation says into a part of a file's name."""
    words = group.replace("-", "").replace("_", "").replace(".", "")
    is_plain = words.isascii() and words.isalnum() and len(group) <= _ID_MAX
    return group if is_plain else _short(group)


def nursery_socket() -> str:
    """Name the nursery's socket: one for each settings file, installation and interpreter."""
    code = (__file__, sys.prefix, sys.version, os.environ.get("PYTHONPATH", ""))
    return f"{NURSERY_FOLDER}/nursery-{__version__}-{_short(config_path(), *code)}.sock"


def write_address(path: str) -> str:
    """Write the address of a shim's socket into the bundle, the working folder; return it."""
    with open(_ADDRESS, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib loads too much
        file.write(_SCHEME + path)
    return _SCHEME + path


def socket_of(bundle: str) -> str:
    """Return the socket of the shim that `start` has named in a bundle; empty when it has not."""
    try:
        with open(f"{bundle}/{_ADDRESS}", encoding="utf-8") as file:  # noqa: PTH123 - see above
            return file.read(_LIMIT).removeprefix(_SCHEME)
    except (OSError, ValueError):
        return ""


def answers(path: str) -> bool:
    """Tell whether a shim listens there."""
    probe = _socket.socket(_socket.AF_UNIX)
    probe.settimeout(_PROBE_S)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def is_left(path: str) -> bool:
    """Tell whether there is a socket without a shim."""
    return bool(path) and os.path.lexists(path) and not answers(path)
