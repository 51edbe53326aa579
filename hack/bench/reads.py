"""How fast an image is sealed and verified, beside dd; it is in the page cache."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from hack.bench.effort import Effort
from hack.bench.image_files import MIB, Files
from hack.bench.row import Rows, ms, ratio, row
from hack.bench.turns import by_turns, timed

ROUNDS = 9
_GB = 1e9


def measure(runsc: Path, effort: Effort) -> Rows:
    """Read the same image by turns."""
    del runsc
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as name:
        files = Files(Path(name))
        works = {"dd": files.dd, "seal": files.seal, "verify": files.verify}
        ways = {way: partial(timed, work) for way, work in works.items()}
        found = by_turns(ways, effort.rounds(ROUNDS), warm_up=True)
    for way, spent in found.items():
        rows[f"reads.{way}.duration"] = ms(spent)
        rows[f"reads.{way}.rate"] = row([MIB * (1 << 20) / _GB / each for each in spent], "GB/s")
        if way != "dd":
            rows[f"reads.{way}.ratio"] = ratio(spent, found["dd"])
    return rows
