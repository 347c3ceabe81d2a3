"""Ray workarounds: each is still needed with the installed Ray, and does what it promises."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import ray
from ray import tune
from ray._common.ray_option_utils import task_options
from ray.tune.execution.tune_controller import TuneController, _get_max_pending_trials
from ray.tune.schedulers import FIFOScheduler
from ray.tune.trainable.function_trainable import FunctionTrainable
from ray.tune.utils.object_cache import _ObjectCache
from ray.util.placement_group import placement_group

from whale_ray.sweep.execution.cluster.ray_workarounds import (
    FailedResets,
    NoTuneState,
    forget_metrics,
    kept_sigterm_handler,
    set_ray_environment,
)
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots
from whale_ray.sweep.execution.runners.tune_runner import _reservation
from whale_ray.sweep.execution.runners.tune_search import LEFT_OUT, EarlyStoppingScheduler


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Stateless(NoTuneState, Unpicklable):
    pass


def test_tune_pickles_its_components_and_needs_them_without_state() -> None:
    internal = tune.impl.tuner_internal.TunerInternal.__new__(tune.impl.tuner_internal.TunerInternal)
    internal.__dict__ |= {"_tuner_kwargs": {}, "_run_config": tune.RunConfig(callbacks=[Unpicklable()])}
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(internal.__getstate__())
    assert pickle.loads(pickle.dumps(Stateless())).__dict__ == {}


def test_a_failed_reset_that_tune_does_not_report_is_found_once() -> None:
    trial, controller = Mock(trial_id="one", status="ERROR"), Mock()
    controller._resetting_trials = {trial}
    TuneController._on_trial_reset(controller, trial, False)
    controller._schedule_trial_stop.assert_called_once()
    controller._callbacks.on_trial_error.assert_not_called()
    controller._search_alg.on_trial_complete.assert_not_called()
    resets = FailedResets()
    assert resets.find([trial, Mock(trial_id="two", status="RUNNING")]) == [trial]
    assert resets.find([trial]) == []


def test_a_failure_that_a_callback_reported_is_no_failed_reset() -> None:
    resets, trial = FailedResets(), Mock(trial_id="one", status="ERROR")
    resets.mark_reported(trial)
    assert resets.find([trial]) == []


def test_a_worker_that_does_not_end_its_last_trial_in_time_fails_the_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Mock()
    session.training_thread.is_alive.return_value = True
    monkeypatch.setattr("ray.tune.trainable.function_trainable.get_session", lambda: session)
    assert FunctionTrainable.reset_config(Mock(), {}) is False


def test_tune_refuses_an_epoch_without_a_score_unless_the_check_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = SimpleNamespace(_metric="recall@1", _scheduler_alg=Mock(metric=None), _search_alg=Mock(metric=None))
    monkeypatch.delenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", raising=False)
    with pytest.raises(ValueError, match="did not include the specified metric"):
        TuneController._validate_result_metrics(controller, {"epoch": 1, "loss": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", {})
        set_ray_environment()
        TuneController._validate_result_metrics(controller, {"epoch": 1, "loss": 2.0})


def test_a_node_that_is_left_out_is_named_by_the_label_that_ray_gives_it(cluster: str) -> None:
    slots = TrialSlots({"CPU": 1.0}, workers=1)
    left_out = [node["NodeID"] for node in ray.nodes()]
    reservation = _reservation(slots, {"alone": False, LEFT_OUT: left_out})
    (selector,) = reservation._bound.arguments["bundle_label_selector"]
    ((label, condition),) = selector.items()
    assert [node["Labels"][label] for node in ray.nodes()] == left_out
    assert condition == f"!in({','.join(left_out)})"


def test_ray_replaces_the_sigterm_handler(cluster: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    assert getattr(handler, "__module__", "").startswith("ray."), "ray.init keeps SIGTERM: drop kept_sigterm_handler"


@pytest.mark.parametrize(("follows", "workers", "keep"), [(True, 1, True), (False, 1, False), (False, 2, True)])
def test_tune_keeps_an_idle_worker_unless_it_has_a_place_on_a_node_and_no_trial_can_follow(
    follows: bool, workers: int, keep: bool
) -> None:
    trial = Mock(placement_group_factory=tune.PlacementGroupFactory([{"CPU": 1.0}]))
    controller = Mock(_reuse_actors=True, _staged_trials=set(), _actor_cache=_ObjectCache(may_keep_one=True))
    controller._search_alg.is_finished.return_value = False  # lost trials may still come back
    controller._actor_manager.is_actor_failed.return_value = False
    controller._trial_to_actor, controller._actor_to_trial = {trial: "worker"}, {"worker": trial}
    controller._started_actors = {"worker"}
    store = Mock(queue=Mock(may_go_on=lambda: follows), sweep=Mock(fixed={"resources.workers": workers}))
    EarlyStoppingScheduler(store).on_trial_complete(controller, trial, {})
    assert TuneController._maybe_cache_trial_actor(controller, trial) is keep


@pytest.mark.parametrize(
    ("report", "is_epoch"), [({"heartbeat/pid": 1}, False), ({"workers/channel": "c"}, False), ({"epoch": 2}, True)]
)
def test_early_stopping_is_asked_after_epochs_only(report: dict[str, object], is_epoch: bool) -> None:
    store = Mock()
    store.may_continue.return_value = False
    decision = EarlyStoppingScheduler(store).on_trial_result(Mock(), Mock(config={"trial": "1"}), report)
    assert decision == (FIFOScheduler.STOP if is_epoch else FIFOScheduler.CONTINUE)
    assert store.may_continue.called is is_epoch


def test_tune_keeps_figures_of_each_report_and_they_are_dropped() -> None:
    tune.registry.register_trainable("nothing", lambda config: None)
    trial = tune.experiment.Trial("nothing", stub=True)
    for epoch in (1, 2):
        trial.update_last_result({"epoch": epoch, "training_iteration": epoch, "recall@1": 0.5, "config": {}})
    assert {"epoch", "recall@1"} <= trial.metric_analysis.keys(), "Tune keeps nothing any more: drop forget_metrics"
    forget_metrics(trial)
    assert trial.metric_analysis == trial.metric_n_steps == {}
    assert trial.last_result["epoch"] == 2
    trial.update_last_result({"epoch": 3, "training_iteration": 3, "config": {}})  # it goes on after a lost worker


def test_tune_asks_the_scheduler_before_it_keeps_a_worker() -> None:
    controller, trial = Mock(_callbacks=Mock()), Mock(status="RUNNING", last_result={})
    TuneController.stop_trial(controller, trial)
    called = [name for name, *_ in controller.mock_calls]
    assert called.index("_scheduler_alg.on_trial_complete") < called.index("_schedule_graceful_trial_stop")
    assert controller._scheduler_alg.on_trial_complete.call_args.args[0] is controller, "not a wrapper"


def test_the_sigterm_handler_is_kept() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def ours(number: int, frame: object) -> None: ...

    try:
        signal.signal(signal.SIGTERM, ours)
        with kept_sigterm_handler():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_trial_that_prefers_a_node_would_not_get_a_running_worker() -> None:
    """docs/explanation/scaling.md: why the order of trials places them, not their reservations."""
    anywhere = tune.PlacementGroupFactory([{"CPU": 1.0}])
    assert anywhere == tune.PlacementGroupFactory([{"CPU": 1.0}])
    selector = {"bundle_label_selector": [{"ray.io/node-id": "a"}]}
    for preference in (selector, {"strategy": "STRICT_PACK", "_soft_target_node_id": "a"}):
        assert anywhere != tune.PlacementGroupFactory([{"CPU": 1.0}], **preference)
    assert "fallback_strategy" not in inspect.signature(placement_group).parameters
    assert "fallback_strategy" in task_options


def test_tune_lets_one_trial_wait_unless_the_limit_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Mock(searcher=None)
    monkeypatch.delenv("TUNE_MAX_PENDING_TRIALS_PG", raising=False)
    assert _get_max_pending_trials(searcher) == 1
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", {})
        set_ray_environment()
        assert _get_max_pending_trials(searcher) > 10_000


@pytest.mark.parametrize(("is_set", "times"), [(False, 3), (True, 1)])
def test_tune_writes_the_state_of_all_trials_again_and_again_unless_the_period_is_set(
    cluster: str, monkeypatch: pytest.MonkeyPatch, is_set: bool, times: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", {})
        set_ray_environment()
        period = os.environ["TUNE_GLOBAL_CHECKPOINT_S"]
    monkeypatch.delenv("TUNE_GLOBAL_CHECKPOINT_S", raising=False)
    if is_set:
        monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", period)
    controller, clock = TuneController(storage=Mock()), Mock(return_value=0.0)
    monkeypatch.setattr("ray.tune.execution.experiment_state.time", Mock(monotonic=clock))
    monkeypatch.setattr(controller, "save_to_dir", save := Mock())
    for _ in range(3):
        controller.checkpoint()
        clock.return_value += 3600.0
    assert save.call_count == times


@pytest.mark.parametrize(
    ("scheduler", "wanted"), [(FIFOScheduler(), "starting"), (EarlyStoppingScheduler(Mock()), "new")]
)
def test_a_free_worker_goes_to_a_new_trial_instead_of_one_whose_own_worker_starts(
    scheduler: FIFOScheduler, wanted: str
) -> None:
    """Otherwise trials shorter than the start of a worker would all run on one node."""
    starting, new = (Mock(status="PENDING", trial_id=name) for name in ("starting", "new"))
    controller = Mock(_scheduler_alg=scheduler, _max_pending_trials=16, _staged_trials={starting})
    controller._pending_trials, controller._pending_trials_list = {starting, new}, [starting, new]
    controller._trial_to_actor = {starting: "a worker that starts"}
    controller.get_trials.return_value = [starting, new]
    controller._wrapped.return_value = controller
    controller._actor_manager.num_pending_actors = 1
    free, got = ["a free worker"], []

    def take(trial: Mock) -> None:
        if free:
            got.append((trial.trial_id, free.pop()))

    controller._maybe_reuse_cached_actor, controller._schedule_trial_actor = take, take
    controller._actor_cache.num_cached_objects = 0  # of the part of the step that follows
    TuneController._maybe_add_actors(controller)
    assert got == [(wanted, "a free worker")]
