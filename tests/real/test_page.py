"""The page of a sidecar in a real Chromium, during a real checkpoint and a real restore.

With CRYO_PAGE_PNG as the path of a file, a picture of it is written there: that of docs/page.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.errors import CudaError, DeadlineExceeded
from shim.simgpu.simulation import Fault, Kind, Simulation
from tests.browser import Browser, browser
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import Background, Rig, refused

pytestmark = pytest.mark.timeout(300)

HOOKS = ("pre-freeze", "post-thaw", "post-restore")
PROCESSES = 3
WIDTH, HEIGHT, PHONE = 1200, 800, 390
# How long a process takes to freeze while the picture is taken.
SLOW_S = 20.0
PICTURE_BYTES = 150 << 10


# Texts with less contrast than 4.5 to 1 (WCAG 2, AA), against the nearest background that is drawn.
FAINT = """
(() => {
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const part = value => linear(value / 255);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const rgba = text => text.match(/[0-9.]+/g).map(Number);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const found = rgba(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const pair = [light(rgba(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) faint.push(`${one.innerText}: ${ratio.toFixed(2)}`);
  }
  return faint;
})()
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start the browser; without one the tests are skipped, or fail in CI."""
    try:
        with browser() as started:
            yield started
    except NotHere as no:
        excuse(str(no))


@pytest.fixture(scope="module")
def page_rig(runsc_new: RunscBuild) -> Iterator[Rig]:
    """Start a sidecar with a page; each CUDA process is moved by a call of its own."""
    with Simulation(runsc_new.path) as sim:
        sim.with_helper = False
        sim.start_sidecar("--http", "127.0.0.1:0")
        yield Rig(sim, runsc_new)


@pytest.fixture
def rig(page_rig: Rig) -> Iterator[Rig]:
    """Yield the machine, and take away what a test leaves on it."""
    yield page_rig
    page_rig.clear()


@pytest.fixture
def url(page_rig: Rig) -> str:
    """Return where the page is."""
    log = page_rig.sim.sidecar_log.read_text("utf-8")
    (found,) = re.findall(r"the page is served on (http://[0-9.:]+)", log)
    return str(found)


def start(rig: Rig, name: str, *gates: str) -> None:
    """Start a workload of three processes; at each gate its operations wait until it is opened."""
    gated = {
        f"io.cryo.hook.{hook}": f"exec /bin/sh -c 'until [ -e /tmp/{hook} ]; do sleep 0.05; done'"
        for hook in gates
    }
    settings = rig.settings(processes=PROCESSES)
    bundle = rig.sim.bundle(name, settings, inject_tool=False, annotations=gated)
    rig.client.create(name, str(bundle))
    rig.client.start(name)
    rig.sim.until_ready(rig.guest, name)


def open_gate(rig: Rig, name: str, hook: str) -> None:
    """Let the operations on a task pass a hook."""
    rig.behind.exec(name, ["/bin/touch", f"/tmp/{hook}"])


def shows(*texts: str, within: str = "#operations") -> str:
    """Return a script: whether a part of the page has all these texts."""
    part = f"document.querySelector('{within}').innerText"
    return " && ".join(f"{part}.includes({text!r})" for text in texts)


def at_phase(phase: str) -> str:
    """Return a script: whether the operation is in a phase."""
    return f"document.querySelector('#operations [aria-current=step]')?.innerText === {phase!r}"


def phases(chromium: Browser) -> list[str]:
    """Return the phases that are shown."""
    script = "[...document.querySelectorAll('#operations .phases li')].map(one => one.innerText)"
    return [str(one) for one in chromium.evaluate(script)]


def test_a_checkpoint_and_a_restore(rig: Rig, chromium: Browser, url: str) -> None:
    """Their progress is shown as it is made, without a load; then the image and its timelines."""
    start(rig, "job", *HOOKS)
    chromium.window(WIDTH, HEIGHT)
    chromium.open(f"{url}/")
    chromium.evaluate("window.same = true")
    chromium.until("document.querySelector('#live').innerText === 'live'")
    chromium.until(shows("No operation is under way"))
    chromium.until(shows("job", "running", within="#tasks"))

    saving = Background(lambda: rig.checkpoint("job", "phased"))
    chromium.until(at_phase("pre-freeze"))
    chromium.until(shows("Checkpoint of job"))
    chromium.until(shows("checkpointing", within="#tasks"))
    elapsed = chromium.text("#operations .elapsed")
    chromium.until(f"document.querySelector('#operations .elapsed').innerText !== {elapsed!r}")
    open_gate(rig, "job", "pre-freeze")
    chromium.until(at_phase("post-thaw"))
    assert {"freeze", "lock", "save", "thaw"} < set(phases(chromium))
    states = "document.querySelectorAll('#operations .processes .running').length"
    chromium.until(f"{states} === {PROCESSES}")
    open_gate(rig, "job", "post-thaw")
    made = saving.result()
    assert len(made.processes) == PROCESSES
    chromium.until(shows("No operation is under way"))
    chromium.until(shows("checkpoint of job", "done", within="#recent"))

    restoring = Background(lambda: rig.restore("copy", made.image_path))
    chromium.until(at_phase("post-restore"))
    chromium.until(shows("Restore of copy"))
    chromium.until(shows("copy", "restoring", within="#tasks"))
    assert {"verify", "load", "thaw"} < set(phases(chromium))
    open_gate(rig, "copy", "post-restore")
    restoring.result()
    chromium.until(shows("No operation is under way"))
    chromium.until(shows("restore of copy", "done", within="#recent"))
    chromium.until("document.querySelectorAll('#tasks .badge.running').length === 2")
    assert chromium.evaluate("window.same") is True, "the page was loaded again"
    assert chromium.errors == []

    open_link(chromium, "#tasks td.path a", "/images/")
    shown = chromium.text("main")
    assert made.image_path in shown
    assert "verified This host has sealed" in " ".join(shown.split())
    assert shown.count("python3") >= PROCESSES
    chromium.open(f"{url}/tasks/default/copy")
    assert "default/job/" in chromium.text("main")
    assert_picture(chromium, "load")
    assert chromium.errors == []


def open_link(chromium: Browser, selector: str, path: str) -> None:
    """Click a link as a user does, and wait until its page is loaded."""
    chromium.evaluate(f"document.querySelector({selector!r}).click()")
    chromium.until(f"location.pathname.startsWith({path!r}) && document.readyState === 'complete'")
    assert_picture(chromium, "save")


def assert_picture(chromium: Browser, phase: str) -> None:
    """Check that the timeline is drawn, and that it is also a table."""
    assert chromium.evaluate("document.querySelector('figure img').naturalWidth") > 0
    chromium.evaluate("document.querySelector('details').open = true")
    assert phase in chromium.text("details")


def test_a_failure_is_shown(rig: Rig, chromium: Browser, url: str) -> None:
    """Why a checkpoint failed, in the list of the last operations and on the page of the task."""
    start(rig, "job")
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL, message="<b>unspecified</b>"))
    chromium.open(f"{url}/")
    error = refused(CudaError, lambda: rig.checkpoint("job", "phased"))
    chromium.until(shows("failed", "<b>unspecified</b>", within="#recent"))
    chromium.open(f"{url}/tasks/default/job")
    assert error.message in chromium.text("main .failed")
    assert_picture(chromium, "rollback")
    assert chromium.errors == []


@pytest.mark.long
def test_the_picture_of_the_docs(rig: Rig, chromium: Browser, url: str, tmp_path: Path) -> None:
    """A checkpoint while it freezes its processes, with a copy and a failure before it."""
    for name in ("train", "serve"):
        start(rig, name)
    made = rig.checkpoint("serve", "phased")
    rig.restore("serve-2", made.image_path)
    rig.sim.faults(Fault(action="lock", kind=Kind.FAIL, message="device not ready"))
    refused(DeadlineExceeded, lambda: rig.checkpoint("serve", "phased"))
    last = max(process.pid for process in made.processes)
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, pid=last, seconds=SLOW_S))
    chromium.window(WIDTH, HEIGHT)
    chromium.open(f"{url}/")
    saving = Background(lambda: rig.checkpoint("train", "phased"))
    chromium.until("document.querySelectorAll('#operations .badge.checkpointed').length === 2")
    chromium.until(shows("checkpointing", within="#tasks"))
    chromium.window(WIDTH, chromium.evaluate("document.documentElement.scrollHeight"))
    picture = chromium.screenshot()
    saving.result()

    assert len(picture) < PICTURE_BYTES
    Path(os.environ.get("CRYO_PAGE_PNG", tmp_path / "page.png")).write_bytes(picture)


def test_the_page_is_readable(rig: Rig, chromium: Browser, url: str) -> None:
    """On a phone too nothing is wider than the window; in dark colors the text is light."""
    start(rig, "job")
    rig.checkpoint("job", "phased")
    digest = rig.client.images()[0].digest
    for width, dark in ((WIDTH, False), (PHONE, True)):
        chromium.window(width, HEIGHT, dark=dark)
        for path in ("/", "/images", f"/images/{digest}", "/tasks/default/job", "/doctor"):
            chromium.open(f"{url}{path}")
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width, path
            assert chromium.evaluate(FAINT) == [], path
    assert chromium.errors == []
