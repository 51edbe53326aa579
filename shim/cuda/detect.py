"""Which processes of a container hold nvidia devices, read from the guest's own /proc.

The first of three ways that the image allows: its shell (builtins suffice), its lsof, or one
question to cuda-checkpoint about every process. None of them is an error where there is a GPU.
"""

from __future__ import annotations

import ipaddress
import re
from importlib import resources

from shim.cuda.guest import Guest
from shim.errors import CudaError, NotFound
from shim.model import Value

_SCRIPT = resources.files("shim.cuda").joinpath("scan.sh").read_text("ascii")
_ESTABLISHED = "01"
_PORT = re.compile(r"[0-9A-Fa-f]{1,4}")
_IPV6 = 6
_MAX_PID = 1 << 22
_PID = re.compile(r"[1-9][0-9]{0,6}")
_MAX_HOLDERS = 4096
_MAX_DEVICES = 256
_TEXT_MAX = 64


class Holder(Value):
    """A process with an nvidia device open or mapped; `driver_thread` as drivers 550+ name one."""

    pid: int
    name: str = ""
    devices: frozenset[str] = frozenset()
    driver_thread: bool = False


class Scan(Value):
    """The result of a search in the guest. `method` is `shell`, `lsof`, `helper` or `ask`."""

    method: str
    holders: tuple[Holder, ...] = ()
    pids: frozenset[int] = frozenset()
    tcp: tuple[str, ...] = ()

    @property
    def has_tcp(self) -> bool:
        """Whether TCP connections were searched for as well."""
        return self.method in {"shell", "helper"}


def _pid(text: str) -> int | None:
    return int(text) if _PID.fullmatch(text) and int(text) < _MAX_PID else None


def _bounded(text: str) -> str:
    return text[:_TEXT_MAX]


def parse_address(text: str) -> str | None:
    """Turn `0100007F:1F90` of /proc/net/tcp into `127.0.0.1:8080`; None when it is malformed.

    IPv6 is written as `[::1]:8080`, and an IPv4-mapped address as IPv4.
    """
    host, _, port = text.partition(":")
    try:
        raw = bytes.fromhex(host)
        number = int(port if _PORT.fullmatch(port) else "", 16)
        words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
        address = ipaddress.ip_address(b"".join(words))
    except ValueError:
        return None
    plain = getattr(address, "ipv4_mapped", None) or address
    return f"[{plain}]:{number}" if plain.version == _IPV6 else f"{plain}:{number}"


def leaves_sandbox(text: str) -> bool:
    """Whether an address is outside the sandbox: connections inside it are saved whole."""
    address = ipaddress.ip_address(text.rpartition(":")[0].strip("[]"))
    return not address.is_loopback and not address.is_unspecified


class _Reader:
    """Collects the output of one search."""

    def __init__(self) -> None:
        self.devices: dict[int, set[str]] = {}
        self.names: dict[int, str] = {}
        self.threads: set[int] = set()
        self.tcp: list[str] = []
        self.complete = False

    def line(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        first, _, second = rest.partition(" ")
        if kind == "E":
            self.complete = True
        elif kind == "T":
            self._connection(first, second)
        elif (pid := _pid(first)) is not None:
            self._process(kind, pid, second)

    def _process(self, kind: str, pid: int, text: str) -> None:
        if kind in ("F", "M"):
            self._hold(pid, _bounded(text) or "mapping")
        elif kind == "C":
            self.threads.add(pid)
        elif kind == "N":
            self.names[pid] = _bounded(text)

    def _hold(self, pid: int, device: str) -> None:
        held = self.devices.setdefault(pid, set())
        if len(self.devices) > _MAX_HOLDERS:
            message = f"more than {_MAX_HOLDERS} processes hold a GPU device"
            raise CudaError(message, remedy="end some, or use --cuda ignore")
        if len(held) < _MAX_DEVICES:
            held.add(device)

    def _connection(self, remote: str, state: str) -> None:
        address = parse_address(remote)
        if state.strip() == _ESTABLISHED and address and leaves_sandbox(address):
            self.tcp.append(address)

    def scan(self, method: str) -> Scan:
        holders = tuple(
            Holder(
                pid=pid,
                name=self.names.get(pid, ""),
                devices=frozenset(devices),
                driver_thread=pid in self.threads,
            )
            for pid, devices in sorted(self.devices.items())
        )
        return Scan(
            method=method,
            holders=holders,
            pids=frozenset(self.names),
            tcp=tuple(sorted(set(self.tcp))),
        )


def parse_scan(text: str) -> Scan | None:
    """Parse the output of the shell script; None when it is incomplete.

    Raises:
        CudaError: there are too many holders.
    """
    reader = _Reader()
    for line in text.split("\n"):
        reader.line(line)
    return reader.scan("shell") if reader.complete else None


def parse_lsof(text: str) -> Scan:
    """Read lsof's field output (`-F pcn`), or busybox's columns."""
    reader = _Reader()
    pid = 0
    for line in text.split("\n"):
        if "\t" in line:
            first, _, rest = line.partition("\t")
            pid = _pid(first.strip()) or 0
            name, _, path = rest.rpartition("\t")
            _lsof_entry(reader, pid, name, path.strip())
        elif line.startswith("p"):
            pid = _pid(line[1:]) or 0
        elif line.startswith("c"):
            _lsof_entry(reader, pid, line[1:], "")
        elif line.startswith("n"):
            _lsof_entry(reader, pid, "", line[1:])
    return reader.scan("lsof")


def _lsof_entry(reader: _Reader, pid: int, name: str, path: str) -> None:
    if pid and name:
        reader.line(f"N {pid} {name}")
    if pid and path.startswith("/dev/nvidia"):
        reader.line(f"F {pid} {path}")


async def _by_shell(guest: Guest, timeout_s: float) -> Scan | None:
    done = await guest.run(["/bin/sh", "-c", _SCRIPT], timeout_s=timeout_s)
    return parse_scan(done.stdout.decode("utf-8", "replace"))


async def _by_lsof(guest: Guest, timeout_s: float) -> Scan | None:
    done = await guest.run(["lsof", "-n", "-P", "-w", "-F", "pcn"], timeout_s=timeout_s)
    text = done.stdout.decode("utf-8", "replace")
    return parse_lsof(text) if text.strip() else None


async def _by_asking(guest: Guest) -> Scan:
    """Return every process as a holder: cuda-checkpoint is asked later which have CUDA state."""
    rows = await guest.ps()
    holders = tuple(Holder(pid=row.pid, name=_bounded(row.command)) for row in rows)
    return Scan(method="ask", holders=holders, pids=frozenset(row.pid for row in rows))


async def scan(guest: Guest, *, timeout_s: float, may_ask: bool) -> Scan:
    """Find the processes that hold nvidia devices.

    `may_ask` allows the last way, which costs one run of cuda-checkpoint per process.

    Raises:
        CudaError: the image has neither shell nor lsof, and asking is not allowed; or there are
            too many holders.
        DeadlineExceeded: the guest did not answer in time.
    """
    for way in (_by_shell, _by_lsof):
        try:
            found = await way(guest, timeout_s)
        except NotFound:
            continue
        if found is not None:
            return found
    if may_ask:
        return await _by_asking(guest)
    message = "cannot look for CUDA processes: the image has neither a shell nor lsof"
    raise CudaError(message, remedy="add a shell to the image, or provide cuda-checkpoint")
