"""Rollout: start of an application on Ray Serve, and exchange of a running service's bundle without failed calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from whale_ray.errors import BundleError, InputError
from whale_ray.file_errors import real_path
from whale_ray.inference.bundle import read_manifest
from whale_ray.ray_address import check_ray_address
from whale_ray.ray_private import enable_token_auth_if_token_exists
from whale_ray.ray_temp_folder import shorten_ray_folder
from whale_ray.serving.auth.api_keys import ENVIRONMENT, ApiKeys, read_keys
from whale_ray.serving.deployment.application import NAME, build_application
from whale_ray.serving.deployment.pulled_bundles import NO_SOURCES, BundleSources, fault_of_folders
from whale_ray.serving.deployment.settings import ServeSettings, with_options
from whale_ray.serving.deployment.start_failures import messages_of, reason_of, reported_failures

_SECONDS = 30.0
_OLD_PAGE = "page"  # the application that showed the web page in version 0.1


def run_application(application: serve.Application, say: Callable[[str], None] = print) -> None:
    """Deploy the application; return once all its replicas answer and no older one does.

    Args:
        application: The application.
        say: Called with the reason for which a replica does not start and is tried again.

    Raises:
        BundleError: If a bundle fails its check in a replica; the older replicas continue.
    """
    try:
        with reported_failures(NAME, say):
            serve.run_many([serve.RunTarget(application, NAME, "/")])
    except RuntimeError as error:
        if (reason := reason_of("\n".join(messages_of(NAME)))) is None:
            raise
        raise BundleError(reason) from error
    if _OLD_PAGE in serve.status().applications:
        serve.delete(_OLD_PAGE)


def deploy(
    bundle: Path | str,
    *,
    address: str | None = None,
    model: str | None = None,
    shadow: bool = False,
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Exchange the bundle of a model in a running service.

    The bundle's golden images are checked on the cluster first, and that each machine with room for a replica has the
    bundles that are named by a folder. Then new processes start beside the old ones and
    replace them one by one; encoders in deployments stay until no ingress calls them.

    Args:
        bundle: Folder of the new bundle, on a path that every machine of the cluster has; or its URL, from which each
            machine pulls it.
        address: Address of the service's Ray; None: the Ray of this machine.
        model: Name of the model; None: the default model.
        shadow: Run the bundle silently beside the default model instead.
        options: KEY=VALUE settings, as for `whale-ray serve`; numbers of replicas change without a restart.
        say: Called with each line of progress.

    Raises:
        BundleError: If the bundle fails its check or a machine lacks a bundle; nothing has changed.
        InputError: If no service runs there or the settings are wrong; nothing has changed.
    """
    sources = BundleSources()
    folder = real_path(sources.pull(str(bundle)))
    read_manifest(folder)
    with _connected(address):
        live, live_keys = _live_settings()
        wanted = with_options(exchanged(live, folder, model=model, shadow=shadow, sources=sources), options)
        keys = _keys_of(wanted, live_keys) if any(one.startswith("keys=") for one in options) else live_keys
        kept = tuple(set(live.remote_encoders.values()) - set(wanted.remote_encoders.values()))
        check_gpus(wanted, more=len(kept) * wanted.encoder_replicas + wanted.surge)
        _check_nodes(wanted)
        _check_on_cluster(folder, wanted)
        say(f"{bundle} passes its check on the cluster; its processes start beside the old ones")
        try:
            run_application(build_application(wanted, keys=keys, kept=kept), say)
        except (BundleError, RuntimeError):
            run_application(build_application(live, keys=live_keys), say)
            raise
        if kept:
            run_application(build_application(wanted, keys=keys), say)
    say(f"{bundle} {'answers silently beside the default model' if shadow else 'answers'}")


def check_gpus(settings: ServeSettings, *, more: int = 0) -> None:
    """Check that the encoders fit on the cluster's GPUs; Ray would wait without end for GPUs that do not exist.

    Args:
        settings: Settings of the service.
        more: Encoders that run beside those of the settings during an exchange.

    Raises:
        InputError: If they do not fit.
    """
    share, found = settings.gpus, ray.cluster_resources().get("GPU", 0.0)
    if not share:
        return
    places = found * int(1 / share + 1e-9) if share < 1 else found // share  # a share lies on one GPU
    if settings.encoders + more > places:
        meanwhile = f", and {more} more while it is exchanged," if more else ""
        raise InputError(
            f"gpus={share:g} for each of {settings.encoders} encoders{meanwhile} must fit on the cluster's GPUs, but "
            f"Ray finds {found:g}. Lower gpus (fractions share one) or the replicas, or set surge=0"
        )


def exchanged(
    live: ServeSettings, bundle: Path, *, model: str | None, shadow: bool, sources: BundleSources = NO_SOURCES
) -> ServeSettings:
    """Return the live settings with another bundle. A bundle that leaves the shadow for a model is no shadow any more.

    Args:
        live: Settings of the running service.
        bundle: Folder of the new bundle.
        model: Name of the model that gets it; None: the default model.
        shadow: Make it the shadow instead.
        sources: URL of the new bundle, if it was pulled.

    Raises:
        InputError: If no model has this name.
    """
    current = {*live.bundles.values(), *([] if live.shadow is None else [live.shadow])}
    live = live.with_sources(live.sources.of(current).merged(sources))
    if shadow:
        return live.model_copy(update={"shadow": bundle})
    name = model or next(iter(live.bundles))
    if name not in live.bundles:
        known = ", ".join(live.bundles)
        raise InputError(f"--model must be one that is served ({known}), but is {name!r}. Name one, or leave it out")
    place = {"bundle": bundle} if live.bundle is not None else {"models": {**live.models, name: bundle}}
    return live.model_copy(update={**place, "shadow": None if live.shadow == bundle else live.shadow})


def _live_settings() -> tuple[ServeSettings, ApiKeys]:
    try:
        answer: tuple[ServeSettings, ApiKeys] = serve.get_app_handle(NAME).deployed.remote().result(timeout_s=_SECONDS)
    except (RayServeException, TimeoutError) as error:
        raise InputError(
            f"a service must run on this Ray, but none answers ({error}). Name its Ray with --address, as "
            "`whale-ray serve` prints it, or start it"
        ) from error
    return answer


def _keys_of(wanted: ServeSettings, keys: ApiKeys) -> ApiKeys:
    """Return the keys of the file as it is now, and the live key of the environment."""
    of_environment = (key for key in keys.keys if key.name == ENVIRONMENT)
    return ApiKeys((*of_environment, *read_keys(wanted.keys, None).keys))


def _check_nodes(settings: ServeSettings) -> None:
    """Check that each node on which a replica can start has the bundles that come from no URL."""
    settings = settings.resolved()
    bundles = {*settings.bundles.values(), *([] if settings.shadow is None else [settings.shadow])}
    digests = settings.sources.digests(bundles)
    nodes = [node for node in ray.nodes() if node["Alive"] and has_room_for_replica(node["Resources"], settings)]
    if not digests or len(nodes) < 2:
        return
    started = []
    for node in nodes:
        machine = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        check = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(fault_of_folders)
        started.append(check.remote(digests, machine))
    for check in started:
        try:
            fault = ray.get(check, timeout=_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            continue  # the node has died, and gets no replica
        if fault:
            raise BundleError(f"{fault} (nothing was changed)")


def has_room_for_replica(resources: Mapping[str, float], settings: ServeSettings) -> bool:
    """Return whether an idle node has the cores and GPUs of a replica that takes calls.

    Args:
        resources: Resources of the node by Ray's names.
        settings: Settings of the service.
    """
    gpus = settings.gpus if settings.shape == "joined" else 0.0
    return resources.get("CPU", 0.0) >= settings.threads and resources.get("GPU", 0.0) >= gpus


def _check_on_cluster(bundle: Path, settings: ServeSettings) -> None:
    """Load the bundle on the cluster: its libraries and processors may differ from this machine's."""
    checked = ray.remote(num_cpus=0, max_retries=0)(_fault_of).remote(bundle, settings)
    if reason := ray.get(checked):
        raise BundleError(f"{reason} (nothing was changed)")


def _fault_of(bundle: Path, settings: ServeSettings) -> str | None:
    from whale_ray.inference.predictor import Bundle  # PyTorch, on the cluster only

    try:
        Bundle.load(settings.sources.replica_folder(bundle), threads=settings.threads)
    except InputError as error:
        return str(error)
    return None


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    shorten_ray_folder()
    target = check_ray_address(address or "auto")
    enable_token_auth_if_token_exists()
    try:
        ray.init(address=target, namespace="serve", logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(
            f"a Ray must answer at {address or 'this machine'}, but: {error}. Start the service first, or name its "
            "Ray with --address"
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
