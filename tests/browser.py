"""A real Chromium without a window, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hack.tools.running import NotHere

START_S = 60.0
CALL_S = 30.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MOST_BYTES = 1 << 20
# The browser reads descriptor 3, and writes descriptor 4.
_LAUNCH = """
import os, sys
reads, writes = (os.dup(os.dup(int(number))) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def find_chromium() -> Path:
    """Return the browser of this machine.

    Raises:
        NotHere: there is none.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    message = "there is no chromium: apt-get install chromium"
    raise NotHere(message)


class ProtocolError(Exception):
    """The browser refuses a call, as when its page is replaced by another meanwhile."""


class Browser:
    """One browser with one window."""

    def __init__(self, read: int, write: int) -> None:
        """Take the ends of its pipes; open the window."""
        self._read, self._write = read, write
        self._ids = itertools.count(1)
        self._data = b""
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        opened = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": opened["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **self._session}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + (CALL_S if self._session else START_S)
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._data:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([self._read], [], [], max(left_s, 0))
            assert ready, f"chromium does not answer {method}"
            piece = os.read(self._read, _MOST_BYTES)
            assert piece, f"chromium ended in {method}"
            self._data += piece
        line, _, self._data = self._data.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the browser complains about: scripts, the policy, what cannot be loaded."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def window(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and whether the user prefers dark colors."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Open an address, and wait until the page is loaded."""
        failed = self.call("Page.navigate", url=url).get("errorText", "")
        assert not failed, f"{url}: {failed}"
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression; that of a promise when it is there."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, script: str, timeout_s: float = CALL_S) -> None:
        """Wait until an expression is true; the browser looks each time that it draws."""
        wait = (
            "new Promise(done => { const end = performance.now() + %d;"
            "const look = () => { let is; try { is = (%s); } catch { is = false; }"
            "if (is || performance.now() > end) done(Boolean(is)); else setTimeout(look, 20); };"
            "look(); })"
        )
        limit_ms = int(min(timeout_s, CALL_S / 2) * 1000)
        deadline = time.monotonic() + timeout_s
        while not self._is_so(wait % (limit_ms, script)):
            assert time.monotonic() < deadline, f"not so in {timeout_s} s: {script}\n{self.text()}"

    def _is_so(self, script: str) -> bool:
        with contextlib.suppress(ProtocolError):
            return bool(self.evaluate(script))
        return False

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as it is shown."""
        found = self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def screenshot(self) -> bytes:
        """Return a picture of the window, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it.

    Raises:
        NotHere: there is none on this machine.
    """
    program = find_chromium()
    ours_in, its_out = os.pipe()
    its_in, ours_out = os.pipe()
    with tempfile.TemporaryDirectory(prefix="cryo-chromium-", ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _LAUNCH,
                str(its_in),
                str(its_out),
                str(program),
                *_FLAGS,
                f"--user-data-dir={home}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(its_in, its_out),
            env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home},
            process_group=0,
        )
        os.close(its_in)
        os.close(its_out)
        try:
            running = Browser(ours_in, ours_out)
            yield running
            running._session = {}
            running.call("Browser.close")
            process.wait(CALL_S)
        finally:
            os.close(ours_in)
            os.close(ours_out)
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait(CALL_S)
