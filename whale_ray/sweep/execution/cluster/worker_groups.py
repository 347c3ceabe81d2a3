"""The driver's list of trials with several workers; releases their placement groups when a trial has ended.

Ray Train frees the places of its workers if its controller ends by itself. If the trial's process, and so the
controller, is killed, Ray Train's cleaner asks the dashboard: it fails without one, and with two clusters on a machine.
"""

from __future__ import annotations

import contextlib
import time

_LEAVE_SECONDS = 5.0  # in which workers that were told to leave publish their files


class WorkerGroups:
    """The workers of the trials that run, as the driver knows them; frees their places when a trial has ended."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, str]] = {}
        self._leaving: dict[str, float] = {}

    def record(self, trial: str, group: dict[str, str]) -> None:
        """Record the workers of a trial.

        Args:
            trial: ID of the trial.
            group: What it has reported under `WORKERS`.
        """
        self._groups[trial] = group

    def end(self, trial: str) -> None:
        """Tell the workers of a trial to leave: it has ended or was stopped, or its process is lost.

        Args:
            trial: ID of the trial; it may have one worker only.
        """
        import ray

        if group := self._groups.pop(trial, None):
            with contextlib.suppress(ValueError, ray.exceptions.RayError):  # the channel has ended
                ray.get_actor(group["channel"]).answer.remote(False)
            self._leaving[group["places"]] = time.monotonic()

    def settle(self, *, at_once: bool = False) -> None:
        """Free the places of workers that had five seconds to leave; no error if Ray Train has freed them.

        Args:
            at_once: Free all places that are left; the processes of the trials have ended.
        """
        if at_once:
            for trial in list(self._groups):
                self.end(trial)
        due = time.monotonic() - _LEAVE_SECONDS
        for places in [one for one, told in self._leaving.items() if at_once or told <= due]:
            _free(places)
            del self._leaving[places]


def _free(places: str) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(places))))
