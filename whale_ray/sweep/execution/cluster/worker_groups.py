"""The driver's list of trials with several workers; releases their placement groups when a trial has ended.

Ray Train frees the places of its workers if its controller ends by itself. If the trial's process, and so the
controller, is killed, Ray Train's cleaner asks the dashboard: it fails without one, and with two clusters on a machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

_LEAVE_SECONDS = 5.0  # in which workers that were told to leave publish their files


class WorkerGroups:
    """The workers of the trials that run, as the driver knows them; frees their places when a trial has ended.

    The placement group of a trial that has ended before its workers reported is not known by name. It is the one of
    this size that no trial has, once the workers of all running trials have reported.

    Args:
        resources: What Ray reserves for one worker.
        workers: Number of workers of a trial.
    """

    def __init__(self, resources: Mapping[str, float], *, workers: int) -> None:
        self._bundles = [dict(resources)] * workers
        self._starting: set[str] = set()
        self._groups: dict[str, dict[str, str]] = {}
        self._leaving: dict[str, float] = {}
        self._unknown_since: float | None = None

    def start(self, trial: str) -> None:
        """Record that a trial has a process; if it has several workers, they start next.

        Args:
            trial: ID of the trial.
        """
        if len(self._bundles) > 1:
            self._starting.add(trial)

    def record(self, trial: str, group: dict[str, str]) -> None:
        """Record the workers of a trial.

        Args:
            trial: ID of the trial.
            group: What it has reported under `WORKERS`.
        """
        self._starting.discard(trial)
        self._groups[trial] = group

    def end(self, trial: str) -> None:
        """Tell the workers of a trial to leave: it has ended or was stopped, or its process is lost.

        Args:
            trial: ID of the trial; it may have one worker only.
        """
        import ray

        if trial in self._starting:
            self._starting.discard(trial)
            self._unknown_since = time.monotonic()
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
            for trial in [*self._groups, *self._starting]:
                self.end(trial)
        due = time.monotonic() - _LEAVE_SECONDS
        for places in [one for one, told in self._leaving.items() if at_once or told <= due]:
            _free(places)
            del self._leaving[places]
        if self._unknown_since is not None and not self._starting and (at_once or self._unknown_since <= due):
            known = {group["places"] for group in self._groups.values()} | self._leaving.keys()
            for places in set(_reserved_places(self._bundles)) - known:
                _free(places)
            self._unknown_since = None


def _reserved_places(bundles: list[dict[str, float]]) -> Iterator[str]:
    """Yield the IDs of the placement groups of this driver, whose job ends each ID, that reserve these bundles."""
    import ray
    from ray.util import placement_group_table

    job = ray.get_runtime_context().get_job_id()
    for places, found in placement_group_table().items():
        if places.endswith(job) and found["state"] != "REMOVED" and [*found["bundles"].values()] == bundles:
            yield places


def _free(places: str) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(places))))
