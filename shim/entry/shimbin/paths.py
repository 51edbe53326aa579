"""The paths of a shim: its socket, the fork server's, and its part of the state directory.

The paths that `start` needs do not depend on config.toml: reading it takes as long as the rest of
`start`.
"""

from __future__ import annotations

import _socket
import binascii
import os
import sys

from shim import __version__

_CONFIG = "/etc/cryo/config.toml"
CONFIG_VARIABLE = "CRYO_CONFIG"
# A file in the bundle with the path of the config file, for `delete`, if it is not the default.
_CONFIG_NAME = "cryo.settings"
_SOCKETS = "/run/containerd/s"
FORKSERVER_FOLDER = "/run/cryo"
# The variable in which the launcher, native/launcher, names its link to the fork server's socket.
LINK_VARIABLE = "CRYO_LAUNCHER_LINK"
_LINK_PREFIX = "launcher-"
# A file in the bundle; containerd 1.x reads it when it restarts.
_ADDRESS = "address"
_SCHEME = "unix://"
_PROBE_S = 2.0
_LIMIT = 4096
# The longest id in containerd (pkg/identifiers).
_ID_MAX = 76


def default_config() -> str:
    """Return the path of config.toml: $CRYO_CONFIG, else /etc/cryo/config.toml."""
    return os.environ.get(CONFIG_VARIABLE) or _CONFIG


def choose_config(option: str | bytes | None) -> str:
    """Return the config file of a container, and write its path into the bundle if not the default.

    `option` is the path in the runtime options, or the text that they contain. Equal texts share a
    file, so that the containers of a pod have the same shim.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if option is None:
        return default_config()
    path = option if isinstance(option, str) else _write_config(option)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib loads too much
        message = f"the config file in the runtime options, {path}, does not exist"
        raise FileNotFoundError(message)
    _write(_CONFIG_NAME, os.fsencode(path))
    return path


def _write_config(text: bytes) -> str:
    path = f"{FORKSERVER_FOLDER}/settings-{binascii.crc32(text):08x}-{len(text)}.toml"
    os.makedirs(FORKSERVER_FOLDER, mode=0o700, exist_ok=True)  # noqa: PTH103 - see above
    _write(f"{path}.{os.getpid()}", text)
    os.replace(f"{path}.{os.getpid()}", path)  # noqa: PTH105 - see above
    return path


def config_of(bundle: str) -> str:
    """Return the config file that `start` has chosen for a bundle."""
    try:
        with open(f"{bundle}/{_CONFIG_NAME}", "rb") as file:  # noqa: PTH123 - loads too much
            return os.fsdecode(file.read(_LIMIT))
    except OSError:
        return default_config()


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(data)


def _short(*parts: str) -> str:
    return f"{binascii.crc32(chr(0).join(parts).encode()):08x}"


def of_containerd(state: str, address: str) -> str:
    """Return the part of the state directory for the tasks of one containerd."""
    return f"{state}/shims/{_short(address)}"


def shim_socket(config: str, address: str, namespace: str, group: str) -> str:
    """Return the socket of a group's shim; short enough for a socket address with any id."""
    return f"{_SOCKETS}/{_short(config, address, namespace)}-{_plain(group)}"


def _plain(group: str) -> str:
    """Return a part of a file name for the value of an annotation."""
    words = group.replace("-", "").replace("_", "").replace(".", "")
    is_plain = words.isascii() and words.isalnum() and len(group) <= _ID_MAX
    return group if is_plain else _short(group)


def forkserver_socket(config: str) -> str:
    """Return the fork server's socket: one per config file, installation and interpreter."""
    code = (__file__, sys.prefix, sys.version, os.environ.get("PYTHONPATH", ""))
    return f"{FORKSERVER_FOLDER}/forkserver-{__version__}-{_short(config, *code)}.sock"


def link_launcher(link: str, socket: str) -> None:
    """Let the link that the launcher has named lead to a fork server's socket.

    Without it, or if that fails, the launcher runs this program each time.
    """
    target = os.path.basename(socket)  # noqa: PTH119 - pathlib loads too much
    path = f"{FORKSERVER_FOLDER}/{link}"
    if not link.removeprefix(_LINK_PREFIX).isalnum() or not link.startswith(_LINK_PREFIX):
        return
    temporary = f"{path}.{os.getpid()}"
    try:
        if os.path.lexists(path) and os.readlink(path) == target:  # noqa: PTH115 - see above
            return
        os.symlink(target, temporary)  # noqa: PTH211 - see above
        os.replace(temporary, path)  # noqa: PTH105 - see above
    except OSError:
        return


def unlink_launchers(socket: str) -> None:
    """Remove the links of launchers to a fork server that exits."""
    folder, target = os.path.split(socket)
    for name in os.listdir(folder):  # noqa: PTH208 - see above
        path = f"{folder}/{name}"
        is_link = name.startswith(_LINK_PREFIX) and os.path.islink(path)  # noqa: PTH114 - see above
        if is_link and os.readlink(path) == target:  # noqa: PTH115 - see above
            os.unlink(path)  # noqa: PTH108 - see above


def write_address(path: str) -> str:
    """Write the address of a shim's socket into the bundle, the working directory; return it."""
    with open(_ADDRESS, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib loads too much
        file.write(_SCHEME + path)
    return _SCHEME + path


def socket_of(bundle: str) -> str | None:
    """Return the socket that `start` has written into a bundle, or None."""
    try:
        with open(f"{bundle}/{_ADDRESS}", encoding="utf-8") as file:  # noqa: PTH123 - see above
            return file.read(_LIMIT).removeprefix(_SCHEME) or None
    except (OSError, ValueError):
        return None


def answers(path: str) -> bool:
    """Return whether a shim listens there."""
    probe = _socket.socket(_socket.AF_UNIX)
    probe.settimeout(_PROBE_S)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def is_stale(path: str) -> bool:
    """Return whether there is a socket on which no shim listens."""
    return os.path.lexists(path) and not answers(path)
