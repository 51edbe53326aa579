"""Follow the quickstart on a clean Debian 13, as a new user does, and write down what is seen.

    python -m hack.quickstart docs/quickstart-transcript.md

The machine is a tree that debootstrap has made, with nothing but git, make, python3-venv and
certificates, in namespaces of its own. The commands are those of the documents, in their order.
What differs from a user's machine is in NOTES.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.builds import find_program
from tests.containerd import image
from tests.debian import CleanDebian, machine
from tests.documents import blocks_run_by

ROOT = Path(__file__).resolve().parents[1]
SUITE = "debian-13"
PAGES = (
    ("docs/install.md", "tests/real/test_new_user.py::test_it_takes_less_than_five_minutes"),
    ("docs/quickstart-ctr.md", "tests/containerd/test_quickstarts.py::test_ctr"),
)
LIMIT_S = 300.0
NOTES = """The machine differs from a user's in this:

- It has no systemd: what stands for `systemctl` starts containerd in the background.
- It has no registry: `docker.io/library/busybox:latest` is imported from an archive before, in
  place of `ctr image pull`.
- Its repository is a bare clone on its disk. Its settings of pip, its certificates and its name
  servers are those of the machine around it.
"""
REFERENCE = "docker.io/library/busybox:latest"
_REPOSITORY = Path("/srv/cryoshim.git")
_ARCHIVE = Path("/srv/busybox.tar")
# The last one of the second page that is run: a container was restored.
_LAST = "ctr containers restore"
_SYSTEMCTL = f"""#!/bin/sh
# Stands for systemd's: (re)starts containerd, and waits until it answers.
set -e
test "$*" = "restart containerd"
if test -e /run/containerd.pid; then kill "$(cat /run/containerd.pid)"; fi
containerd >/var/log/containerd.log 2>&1 &
echo $! >/run/containerd.pid
until ctr version >/dev/null 2>&1; do sleep 0.2; done
ctr image import {_ARCHIVE} >/dev/null
"""
_COPIED = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
# What pip needs to reach its index.
_PIP = ("PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
_MARK = re.compile(r"^@@ (\S+) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Transcript:
    """What was seen: the text, and how long all of it took."""

    text: str
    elapsed_s: float


def commands() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each block, up to the restore."""
    for page, test in PAGES:
        for text in blocks_run_by(page, test):
            yield page, text
            if _LAST in text:
                return


def follow() -> Transcript:
    """Follow the documents on a clean machine.

    Raises:
        NotHere: a tool is missing.
        AssertionError: a command failed.
    """
    with machine(SUITE) as clean:
        prepare(clean)
        begin = time.monotonic()
        said = clean.run(script(), timeout_s=2 * LIMIT_S, network=True, cgroup=True)
        return Transcript(_MARK.sub(r"# \2 s, \1", said), time.monotonic() - begin)


def script() -> str:
    """Return what the shell runs: each block is shown, and after it how long it took."""
    lines = ["exec 2>&1", f"export CRYOSHIM={_REPOSITORY}", *_environment()]
    lines += [f"IMAGE={REFERENCE}", "cd /root"]
    for page, text in commands():
        shown = "".join(f"$ {line}\n" for line in text.splitlines())
        lines += ["begin=$(date +%s%3N)", f"printf %s {shlex.quote(shown)}", text.rstrip()]
        took = "$(( $(date +%s%3N) - begin ))"
        lines.append(f'printf "@@ {page} %d.%03d\\n\\n" $(({took} / 1000)) $(({took} % 1000))')
    return "bash -euc " + shlex.quote("\n".join(lines))


def _environment() -> list[str]:
    """Return the settings of pip of the machine around this one."""
    pip = {name: value for name, value in os.environ.items() if name in _PIP}
    return [f"export {name}={shlex.quote(value)}" for name, value in sorted(pip.items())]


def prepare(clean: CleanDebian) -> None:
    """Put into the machine what a user has by the network."""
    for name in _COPIED:
        if Path(name).exists():
            shutil.copy(name, clean.at(Path(name)))
    clone = ["git", "clone", "--quiet", "--bare", str(ROOT), str(clean.at(_REPOSITORY))]
    subprocess.run(clone, check=True, timeout=60)
    image.write(clean.at(_ARCHIVE), find_program("busybox"), reference=REFERENCE)
    systemctl = clean.at(Path("/usr/local/bin/systemctl"))
    systemctl.write_text(_SYSTEMCTL, "utf-8")
    systemctl.chmod(0o755)


def main(path: Path) -> int:
    """Follow the documents and write the page with the transcript."""
    seen = follow()
    cores, day = os.cpu_count(), f"{datetime.now(UTC):%Y-%m-%d}"
    took = f"<!--set-->{seen.elapsed_s:.0f} s<!--/-->"
    head = (
        "# The quickstart on a clean Debian 13\n\n"
        f"`make quickstart` on {day}, on a virtual machine with {cores} cores and other work:\n"
        f"it took {took} from the clone to a restored container.\n\n{NOTES}\n"
    )
    path.write_text(f"{head}```text\n{seen.text.strip()}\n```\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
