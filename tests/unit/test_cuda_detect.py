"""Finding who holds a GPU: every way to look, and whatever a container may answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import detect
from shim.cuda.detect import Scan, parse_address, parse_lsof, parse_scan
from shim.errors import CudaError, DeadlineExceeded
from shim.runsc.run import Completed
from tests.unit.fakes_guest import Cuda, FakeGuest, Fault, says

SCAN = """\
F 7 /dev/nvidiactl
F 7 /dev/nvidia0
C 7
N 7 python3
M 9
N 9 loader
N 1 sh
T 0100007F:1F90 01
T 0101A8C0:0050 01
E
"""
LSOF = """\
p1
csh
fcwd
n/
p7
cpython3
f3
n/dev/nvidiactl
f4
n/dev/nvidia0
f5
n/dev/null
p8
cother
f3
n/home/me/dev/nvidia0
"""
BUSYBOX = (
    "1\t/bin/busybox\t/dev/null\n7\t/usr/bin/python3\t/dev/nvidia0\n7\t/usr/bin/python3\t/tmp/x\n"
)


def held(scan: Scan | None) -> dict[int, frozenset[str]]:
    """Give the devices of each holder."""
    assert scan is not None
    return {holder.pid: holder.devices for holder in scan.holders}


def test_the_shells_lines() -> None:
    """Open files, mappings, the driver's own thread, names and connections are distinguished."""
    scan = parse_scan(SCAN)

    assert scan is not None
    assert held(scan) == {
        7: frozenset({"/dev/nvidiactl", "/dev/nvidia0"}),
        9: frozenset({"mapping"}),
    }
    assert [(h.name, h.driver_thread) for h in scan.holders] == [
        ("python3", True),
        ("loader", False),
    ]
    assert scan.pids == {1, 7, 9}
    assert scan.tcp == ("192.168.1.1:80",)


def test_a_scan_without_its_end_is_not_trusted() -> None:
    """Wherever it stopped, a process may be missing: that is no answer."""
    assert [cut for cut in range(len(SCAN) - 2) if parse_scan(SCAN[:cut]) is not None] == []


@pytest.mark.parametrize("end", ("X", "EE", " E", "e", "E", "N 5 E"))
def test_only_a_line_of_its_own_ends_a_scan(end: str) -> None:
    """A name with an E in it does not make half a scan a whole one."""
    assert (parse_scan(f"N 1 sh\n{end}\n") is not None) == (end == "E")


@pytest.mark.parametrize("mark", ("\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\r"))
def test_a_name_cannot_forge_lines(mark: str) -> None:
    """Only a line break breaks lines; a name with other separators stays a name."""
    text = f"N 5 x{mark}E{mark}F 6 /dev/nvidia0\n"

    assert parse_scan(text) is None
    assert held(parse_scan(text + "E\n")) == {}
    assert held(parse_lsof(f"p5\ncx{mark}n/dev/nvidia0\n")) == {}


@pytest.mark.parametrize(
    "pid",
    (
        "0",
        "-1",
        "x",
        "",
        "1.5",
        "²",
        "٣",
        str(1 << 22),
        "99999999999",
        "00000001" + "1" * 5000,
        "9" * 5000,
    ),
    ids=lambda pid: f"{pid[:12]}-{len(pid)}",
)
def test_what_is_no_pid_is_passed_over(pid: str) -> None:
    """Numbers that cannot be a process, in every script and length, are neither used nor fatal."""
    scan = parse_scan(f"F {pid} /dev/nvidia0\nN {pid} x\nC {pid}\nM {pid}\nE\n")

    assert scan is not None
    assert scan.holders == ()
    assert scan.pids == frozenset()
    assert parse_lsof(f"p{pid}\ncx\nn/dev/nvidia0\n").holders == ()
    assert parse_lsof(f"{pid}\tx\t/dev/nvidia0\n").holders == ()


def test_names_are_bounded() -> None:
    """A long name is cut; what it has in it is made safe where it is shown."""
    scan = parse_scan("N 7 \x1b[31mred\x07" + "x" * 500 + "\nF 7 /dev/nvidia0\x1b\nE\n")

    assert scan is not None
    assert scan.holders[0].name.startswith("\x1b[31mred\x07x")
    assert len(scan.holders[0].name) == 64
    assert scan.holders[0].devices == {"/dev/nvidia0\x1b"}


def test_the_number_of_holders_is_bounded() -> None:
    """To keep some of very many, and leave the others running, would be worse than a no."""
    text = "".join(f"F {pid} /dev/nvidia0\n" for pid in range(1, 4097)) + "E\n"

    assert len(held(parse_scan(text))) == 4096
    with pytest.raises(CudaError, match="more than 4096 processes"):
        parse_scan("F 5000 /dev/nvidia0\n" + text)


def test_the_devices_of_one_holder_are_bounded() -> None:
    """Nor can one process, with as many names as it likes."""
    text = "".join(f"F 7 /dev/nvidia{number}\n" for number in range(20_000)) + "E\n"

    assert len(held(parse_scan(text))[7]) <= 256


def test_lsofs_fields() -> None:
    """Only paths that begin with the device's name count, and names come from `c`."""
    scan = parse_lsof(LSOF)

    assert held(scan) == {7: frozenset({"/dev/nvidiactl", "/dev/nvidia0"})}
    assert scan.holders[0].name == "python3"
    assert scan.pids == {1, 7, 8}


def test_busyboxs_columns() -> None:
    """Busybox knows no options and prints three columns."""
    scan = parse_lsof(BUSYBOX)

    assert held(scan) == {7: frozenset({"/dev/nvidia0"})}
    assert scan.holders[0].name == "/usr/bin/python3"
    assert scan.pids == {1, 7}


TCP = (
    ("0100007F:1F90", "127.0.0.1:8080"),
    ("0101A8C0:0050", "192.168.1.1:80"),
    ("00000000:0000", "0.0.0.0:0"),
    ("00000000000000000000000001000000:01BB", "[::1]:443"),
    ("B80D01200000000000000000010000FF:0016", "[2001:db8::ff00:1]:22"),
    ("0000000000000000FFFF00000100007F:1F90", "127.0.0.1:8080"),
)


@pytest.mark.parametrize(("raw", "address"), TCP)
def test_addresses_of_proc_net_tcp(raw: str, address: str) -> None:
    """The kernel writes each 32-bit word in its own byte order."""
    assert parse_address(raw) == address


@pytest.mark.parametrize(
    "text",
    (
        "",
        ":",
        "x:1",
        "0100007F",
        "0100007F:",
        "0100007F:xyz",
        "01:1",
        "0" * 31 + ":1",
        "0100007F:-1",
        "0100007F:12345",
        "0100007F: 1",
    ),
)
def test_what_is_no_address(text: str) -> None:
    """A line that was cut or is something else gives none."""
    assert parse_address(text) is None


OUTSIDE = "0000000000000000FFFF00000101A8C0:0050"
STAYS = (
    "0100007F:1F90",
    "00000000000000000000000001000000:01BB",
    "0000000000000000FFFF00000100007F:1F90",
    "00000000:0000",
    "0000000000000000FFFF000000000000:0000",
)


@pytest.mark.parametrize("raw", STAYS)
def test_connections_inside_the_sandbox_do_not_count(raw: str) -> None:
    """Both ends of a loopback connection are saved, in IPv4, IPv6, and IPv4 as IPv6."""
    scan = parse_scan(f"T {raw} 01\nE\n")

    assert scan is not None
    assert scan.tcp == ()


@pytest.mark.parametrize(
    ("state", "counts"), (("01", True), ("0A", False), ("06", False), ("", False))
)
def test_only_established_connections_count(state: str, counts: bool) -> None:
    """Listeners and closing sockets have no peer to lose."""
    scan = parse_scan(f"T {OUTSIDE} {state}\nT {OUTSIDE} {state}\nE\n")

    assert scan is not None
    assert scan.tcp == (("192.168.1.1:80",) if counts else ())


LINE = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{} {} {}".format,
        st.sampled_from("FMCNTEX"),
        st.one_of(
            st.integers().map(str), st.text(max_size=20), st.sampled_from([t for t, _ in TCP])
        ),
        st.one_of(st.sampled_from(("01", "/dev/nvidia0")), st.text(max_size=20)),
    ),
    st.builds(
        "{}{}".format, st.sampled_from(("p", "c", "n", "\t", "7\tx\t")), st.text(max_size=20)
    ),
)


@given(lines=st.lists(LINE, max_size=30))
def test_whatever_a_container_prints(lines: list[str]) -> None:
    """Every output is an answer or none, with sane pids and short names."""
    text = "\n".join(lines)
    for scan in (parse_scan(text), parse_scan(text + "\nE"), parse_lsof(text)):
        for holder in scan.holders if scan else ():
            assert 0 < holder.pid < 1 << 22
            assert holder.devices
            assert len(holder.name) <= 64


@given(raw=st.binary(max_size=200))
async def test_whatever_bytes_a_container_prints(raw: bytes) -> None:
    """Bytes that are no text are no crash either."""
    guest = FakeGuest([Cuda(7)], lsof=True)
    answer = Completed(status=0, stdout=raw, stderr=b"")
    guest.faults["scan", 0] = Fault(answer=answer, times=2)

    await detect.scan(guest, timeout_s=1, may_ask=True)


# -- which way -----------------------------------------------------------------------------------


async def test_the_shell_comes_first() -> None:
    """One exec finds everything; it needs a shell and nothing else."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=None)], lsof=True)

    scan = await detect.scan(guest, timeout_s=1, may_ask=True)

    assert scan.method == "shell"
    assert set(held(scan)) == {7, 8}
    assert [argv[:2] for argv in guest.calls] == [["/bin/sh", "-c"]]


async def test_lsof_where_there_is_no_shell() -> None:
    """An image with only lsof works."""
    guest = FakeGuest([Cuda(7)], shell=False, lsof=True)

    scan = await detect.scan(guest, timeout_s=1, may_ask=False)

    assert scan.method == "lsof"
    assert set(held(scan)) == {7}
    assert guest.calls[-1] == ["lsof", "-n", "-P", "-w", "-F", "pcn"]


async def test_lsof_where_the_shell_did_not_finish() -> None:
    """Half a scan is not believed: the next way is tried."""
    guest = FakeGuest([Cuda(7)], lsof=True)
    guest.faults["scan", 0] = Fault(answer=says("F 7 /dev/nvidia0\n"))

    scan = await detect.scan(guest, timeout_s=1, may_ask=False)

    assert scan.method == "lsof"


async def test_asking_about_every_process_is_last() -> None:
    """With neither shell nor lsof every process is a candidate, and cuda-checkpoint decides."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=None)], shell=False)

    scan = await detect.scan(guest, timeout_s=1, may_ask=True)

    assert scan.method == "ask"
    assert {holder.pid for holder in scan.holders} == {1, 7, 8}
    assert scan.pids == {1, 7, 8}


async def test_no_way_is_an_error_that_says_so() -> None:
    """To go on without looking is how GPU state gets lost."""
    guest = FakeGuest([Cuda(7)], shell=False)

    with pytest.raises(CudaError, match="neither a shell nor lsof") as caught:
        await detect.scan(guest, timeout_s=1, may_ask=False)
    assert caught.value.remedy


async def test_a_container_that_does_not_answer() -> None:
    """A look that hangs ends at its deadline."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["scan", 0] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded):
        await detect.scan(guest, timeout_s=0.02, may_ask=True)
