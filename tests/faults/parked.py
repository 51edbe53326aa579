"""Faults while a task is parked or resumed from a park."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from shim.errors import CudaError, ResourceExhausted
from shim.state import TaskState
from tests.faults.judge import TASK
from tests.faults.plan import Scene, What
from tests.faults.trial import Trial


class ParkTrial(Trial):
    """A trial after which the task is either parked or running, and nothing in between."""

    def _prepare(self) -> None:
        if self._plan.scene is not Scene.PARK:
            self._rig.client.pause(TASK)

    def _begin(self) -> Future[Any]:
        if self._plan.scene is Scene.SAVE_PARKED:
            return self._rig.begin(self._image, exit=False)
        client = self._rig.client
        do = client.pause if self._plan.scene is Scene.PARK else client.resume
        return self._rig.run(lambda: do(TASK))

    def _judge_image(self, with_image: str, without: str) -> None:
        """Check the image of a checkpoint; a park or resume makes none.

        Its task may be killed after the operation has succeeded, so there may be no error.
        """
        if self._plan.scene is Scene.SAVE_PARKED:
            super()._judge_image(with_image, without)
            return
        assert not self._has_image()
        self._fail(without)

    def _judge_running(self) -> None:
        if self._wounded:
            self._judge_wounded()
            return
        if self._plan.what is What.GPU_FULL and self._error is not None:
            self._judge_given_up()
            return
        if self._plan.scene is Scene.SAVE_PARKED:
            self._judge_saved()
            return
        asked = TaskState.PAUSED if self._plan.scene is Scene.PARK else TaskState.RUNNING
        found = self._rig.state()
        if self._error is None:
            assert found is asked, found
        self._fail("parked" if found is TaskState.PAUSED else "runs")
        if found is TaskState.PAUSED:
            self._resume()
        self._rig.assert_unharmed(saved=False)
        self._rig.know_fine()

    def _resume(self) -> None:
        assert self._rig.sim.held_bytes() == 0, "reported as parked, but holds GPU memory"
        self._rig.client.resume(TASK)

    def _judge_saved(self) -> None:
        """Check a parked task after a checkpoint: it is still parked."""
        assert self._rig.state() is TaskState.PAUSED
        self._resume()
        self._rig.assert_unharmed(saved=False)
        self._rig.know_fine()
        self._judge_image("parked, and an image", "parked")

    def _judge_given_up(self) -> None:
        """Check a task whose GPU memory was taken between the check of free memory and the thaw.

        The driver has lost a process permanently, and every resume fails with an error.
        """
        assert self._plan.scene is Scene.UNPARK
        assert isinstance(self._error, ResourceExhausted), self._error
        assert self._rig.state() is TaskState.PAUSED
        [view] = self._rig.client.list()
        assert "could not go on" in view.warning
        with pytest.raises(CudaError, match="could not restore process"):
            self._rig.client.resume(TASK)
        self._rig.remove(TASK)
        self._rig.assert_clean()
        self._fail("given up by the driver, and reported")
