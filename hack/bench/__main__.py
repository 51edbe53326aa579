"""Compare Cryoshim with plain runsc, gVisor's shim, runc and scripts, by turns, in one run.

    make bench                          # all cases, at most 30 minutes
    python -m hack.bench checkpoint rpc # some of them
    python -m hack.bench --quick        # two rounds each, to see that all of it works
    make bench-check                    # fails for a ratio that is 20 % above the committed one
    make bench-docs                     # writes docs/performance.json, the tables, the plots and
                                        # the figures of all documents

The results are in build/bench.json. A case that needs a program that is not there is left out, with
its reason.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

from hack.bench import cases, check, conditions, goals, report, result
from hack.bench.effort import Effort
from hack.bench.result import Result
from hack.bench.row import Rows

OUTPUT = result.ROOT / "build" / "bench.json"


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    text = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m hack.bench",
        description=text[0],
        epilog="\n\n".join(text[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases.CASES)}")
    parser.add_argument("--quick", action="store_true", help="two rounds of each")
    parser.add_argument("--runsc", type=Path, help="path of runsc [default: from `make tools`]")
    parser.add_argument("--check", action="store_true", help="compare with the committed ratios")
    parser.add_argument("--docs", action="store_true", help="write the figures of the documents")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file for the results")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(cases.CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))}: see --help")
    if given.docs and given.quick:
        parser.error("figures of two rounds are not for the documents")
    given.runsc = given.runsc or found_runsc(parser)
    return given


def found_runsc(parser: argparse.ArgumentParser) -> Path:
    """Return the runsc that `make tools` chose, or exit with the reason why there is none."""
    # Imported only here: with --runsc some cases also run without pytest, which these need.
    from hack.tools.running import NotHere  # noqa: PLC0415
    from tests.builds import find_program  # noqa: PLC0415

    try:
        return find_program("runsc-new")
    except NotHere as no:
        parser.error(str(no))


def measured(given: argparse.Namespace) -> tuple[Rows, list[str]]:
    """Run the cases, and print the tables of each; return the rows, and the cases that failed."""
    from hack.tools.running import NotHere  # noqa: PLC0415

    rows: Rows = {}
    failed: list[str] = []
    for case in cases.chosen(given.cases):
        began = time.monotonic()
        try:
            found = case.module().measure(given.runsc.resolve(), Effort(case.budget_s, given.quick))
        except NotHere as no:
            print(f"\n{case.name}: not measured: {no}", flush=True)
            continue
        except Exception:  # noqa: BLE001  # a run of 30 minutes is not lost for one case
            traceback.print_exc()
            failed.append(case.name)
            continue
        rows |= found
        spent = time.monotonic() - began
        over = "" if spent < case.budget_s else f", more than its budget of {case.budget_s:.0f} s"
        print(f"\n{case.name}: {spent:.0f} s{over}")
        for key in case.keys:
            print("", key, *report.table(key, found), sep="\n", flush=True)
    return rows, failed


def compared(rows: Rows) -> int:
    """Print how the ratios differ from the committed ones; return the exit status."""
    old = result.read().rows
    wrong = list(check.worse(old, rows))
    print("", *wrong, *check.better(old, rows), sep="\n")
    count = check.compared(old, rows)
    print(f"{count} ratios compared with {result.COMMITTED.name}, {len(wrong)} too large")
    return int(bool(wrong) or not count)


def document(found: Result) -> None:
    """Write the committed results, and what the documents show of them."""
    from hack import figures  # noqa: PLC0415  # only here

    result.write(result.merged(result.read(), found), result.COMMITTED)
    figures.write()
    print(f"written: {result.COMMITTED.relative_to(result.ROOT)}, and the documents")


def main() -> int:
    """Run the command."""
    given = parsed()
    signal.signal(signal.SIGTERM, _stop)
    began, machine = time.monotonic(), conditions.machine(str(given.runsc))
    rows, failed = measured(given)
    machine["load"] += f", {os.getloadavg()[0]:.1f} after"
    command = " ".join(["python -m hack.bench", *given.cases]) if given.cases else "make bench-docs"
    found = Result(machine=machine, date=conditions.today(), command=command, rows=rows)
    result.write(found, given.output)
    print("", *goals.lines(rows), "", sep="\n")
    print(f"{time.monotonic() - began:.0f} s; {', '.join(machine.values())}; {given.output}")
    if given.docs:
        document(found)
    for name in failed:
        print(f"{name}: failed, see above; its rows are of an earlier run")
    status = compared(rows) if given.check else 0
    return int(bool(failed)) or status


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End as for Ctrl-C, so that settings of the machine are put back."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
