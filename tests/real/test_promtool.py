"""Prometheus' own tool reads the alert rules."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hack.tools.running import NotHere
from tests.builds import excuse, find_program

ALERTS = Path(__file__).parents[2] / "packaging/prometheus/alerts.yml"


def test_promtool_accepts_the_rules() -> None:
    """All of them are read, and none is in error."""
    try:
        promtool = find_program("promtool")
    except NotHere as no:
        excuse(str(no))
    argv = [str(promtool), "check", "rules", str(ALERTS)]
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
