"""The report of `make faults` from what several runs have printed."""

from __future__ import annotations

from pathlib import Path

from hack.faults import report, told_in

LOG = """\
run of new-phased, seed 1, trials 1 to 250, 2026-11-26
    1   5.3 s  checkpoint: the step is slow at image.begin:before 1: runs, and an image
Traceback (most recent call last):
AssertionError: {'a': 1}
to repeat it: python -m hack.faults --case new-phased --replay '{}'
    2  10.1 s  restore: sidecar killed at event.create:before 2: NOT WELL
run of new-steps, seed 1, trials 40 to 250, 2026-11-26
   40   1.0 s  restore: sidecar killed at event.create:before 1: copy gone, runs
run of old-phased, seed 1, trials 1 to 250, 2026-11-26
"""


def test_what_an_earlier_run_has_printed(tmp_path: Path) -> None:
    """Each case has the trials that it came to, and each trial its place in the table."""
    log = tmp_path / "log"
    log.write_text(LOG, "utf-8")

    lines = list(report(*told_in(log)))

    assert lines[8] == "3 faults, after 1 of which something did not hold."
    assert lines[10:12] == [
        "- run of new-phased, seed 1, trials 1 to 2, 2026-11-26",
        "- run of new-steps, seed 1, trials 40 to 40, 2026-11-26",
    ]
    assert lines[15:] == [
        "| event.create:before | sidecar killed | 2 | NOT WELL 1; copy gone, runs 1 |",
        "| image.begin:before | the step is slow | 1 | runs, and an image 1 |",
    ]
