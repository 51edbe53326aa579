"""Counts what a transfer has done, from all its threads, and reports it from one."""

from __future__ import annotations

import threading
import time

from shim.distribution.transfer import Transfer
from shim.model import Phase, Progress, Report

_REPORT_EVERY_S = 0.1


class Meter:
    """The counts of one transfer."""

    def __init__(self, phase: Phase, report: Report) -> None:
        self._phase = phase
        self._report = report
        self._counting = threading.Lock()
        self._began_s = time.monotonic()
        self._reported_s = 0.0
        self._total_bytes = 0
        self._done_bytes = 0
        self._moved_bytes = self._moved_blobs = 0
        self._reused_bytes = self._reused_blobs = 0

    def begin(self, total_bytes: int) -> None:
        """Set the number of bytes of the files of the image."""
        self._total_bytes = total_bytes

    def moved(self, size_bytes: int) -> None:
        """Count a blob that was sent or fetched."""
        with self._counting:
            self._moved_bytes += size_bytes
            self._moved_blobs += 1

    def reused(self, size_bytes: int) -> None:
        """Count a blob that was where it is needed already."""
        with self._counting:
            self._reused_bytes += size_bytes
            self._reused_blobs += 1

    def done(self, count: int) -> None:
        """Count bytes of the files, holes too, that need no more work."""
        with self._counting:
            self._done_bytes += count

    def poll(self) -> None:
        """Report what is done, at most ten times a second; it raises if the caller cancelled."""
        now_s = time.monotonic()
        if now_s - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = now_s
            self.report()

    def report(self) -> None:
        """Report what is done."""
        done = min(self._done_bytes, self._total_bytes)
        self._report(Progress(phase=self._phase, bytes_done=done, bytes_total=self._total_bytes))

    def result(self, image: str, digest: str) -> Transfer:
        """Return the counts in the end."""
        return Transfer(
            image_path=image,
            digest=digest,
            bytes_total=self._total_bytes,
            bytes_moved=self._moved_bytes,
            bytes_reused=self._reused_bytes,
            blobs_moved=self._moved_blobs,
            blobs_reused=self._reused_blobs,
            seconds=time.monotonic() - self._began_s,
        )
