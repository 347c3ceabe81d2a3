"""Brings a service to run, and another bundle into one that runs, without a request that fails.

Knows Ray Serve's applications; what an application is made of stands in `deployments`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from whale_ray.errors import BundleError, InputError
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.ray_private import enable_token_auth_if_token_exists
from whale_ray.serving.auth.api_keys import ENVIRONMENT, ApiKeys, read_keys
from whale_ray.serving.deployment.ingress import NAME, PAGE_NAME, application
from whale_ray.serving.deployment.page_replica import page_application
from whale_ray.serving.deployment.settings import ServeSettings, changed
from whale_ray.serving.http.routes_identify import PAGE

_SECONDS = 30.0


def run_application(deployments: serve.Application, page: serve.Application | None = None) -> None:
    """Returns once everything that was deployed answers, and nothing older any more.

    page: beside the service; None: there is none, or no longer.
    Raises: BundleError where a bundle does not pass its check; what ran before goes on.
    """
    try:
        targets = [serve.RunTarget(deployments, NAME, "/")]
        serve.run_many(targets if page is None else [*targets, serve.RunTarget(page, PAGE_NAME, PAGE)])
        if page is None and PAGE_NAME in serve.status().applications:
            serve.delete(PAGE_NAME)
    except RuntimeError as error:
        status = serve.status().applications
        told = [one for name in (NAME, PAGE_NAME) if name in status for one in status[name].deployments.values()]
        messages = "\n".join(deployment.message for deployment in told)
        reasons = re.findall(r"(?:Bundle|Store|Input)Error: (.+)", messages)
        if not reasons:
            raise
        raise BundleError(reasons[-1]) from error


def deploy(
    bundle: Path,
    *,
    address: str | None = None,
    model: str | None = None,
    shadow: bool = False,
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Exchanges a model's bundle in the service that runs on the Ray at `address`, the default model's by default.

    The bundle is checked by its golden images on the cluster first. Then its processes start beside the old ones and
    take over one by one; encoders apart stay until no ingress asks them. shadow: it answers silently beside the
    default model instead. options: KEY=VALUE, as for `whale-ray serve`; a number of replicas changes in place.
    Raises: BundleError where it does not pass, InputError where no service runs; in both cases nothing has changed.
    """
    read_bundle(bundle)
    with _connected(address):
        live, live_keys = _live()
        wanted = changed(exchanged(live, bundle.resolve(), model=model, shadow=shadow), options)
        keys = _keys_of(wanted, live_keys) if any(one.startswith("keys=") for one in options) else live_keys
        kept = tuple(set(live.apart.values()) - set(wanted.apart.values()))
        check_gpus(wanted, more=len(kept) * wanted.encoder_replicas + wanted.surge)
        _check_there(bundle.resolve(), threads=wanted.threads)
        say(f"{bundle} passes its check on the cluster; its processes start beside the old ones")
        try:
            run_application(application(wanted, keys=keys, kept=kept), page_of(wanted, keys))
        except (BundleError, RuntimeError):
            run_application(application(live, keys=live_keys), page_of(live, live_keys))
            raise
        if kept:
            run_application(application(wanted, keys=keys), page_of(wanted, keys))
    say(f"{bundle} {'answers silently beside the default model' if shadow else 'answers'}")


def check_gpus(settings: ServeSettings, *, more: int = 0) -> None:
    """Raises InputError where Ray would wait for ever for GPUs that the cluster does not have.

    more: encoders that run beside those of the settings while a bundle is exchanged.
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


def page_of(settings: ServeSettings, keys: ApiKeys) -> serve.Application | None:
    """The page beside a service of these settings; None where they want none."""
    return page_application(settings, keys=keys) if settings.page else None


def exchanged(live: ServeSettings, bundle: Path, *, model: str | None, shadow: bool) -> ServeSettings:
    """The live settings with this bundle in the place of the model's, or as shadow. A shadow that goes live is none.

    Raises: InputError where there is no such model.
    """
    if shadow:
        return live.model_copy(update={"shadow": bundle})
    name = model or next(iter(live.bundles))
    if name not in live.bundles:
        known = ", ".join(live.bundles)
        raise InputError(f"--model must be one that is served ({known}), but is {name!r}. Name one, or leave it out")
    place = {"bundle": bundle} if live.bundle is not None else {"models": {**live.models, name: bundle}}
    return live.model_copy(update={**place, "shadow": None if live.shadow == bundle else live.shadow})


def _live() -> tuple[ServeSettings, ApiKeys]:
    try:
        answer: tuple[ServeSettings, ApiKeys] = serve.get_app_handle(NAME).deployed.remote().result(timeout_s=_SECONDS)
    except (RayServeException, TimeoutError) as error:
        raise InputError(
            f"the service must run already, but on this Ray none answers ({error}). Name its Ray with "
            "--address, as `whale-ray serve` prints it, or start it"
        ) from error
    settings, keys = answer
    return settings.model_copy(update={"page": PAGE_NAME in serve.status().applications}), keys


def _keys_of(wanted: ServeSettings, keys: ApiKeys) -> ApiKeys:
    """The keys of the file as it is now, and the live one of the environment."""
    of_environment = (key for key in keys.keys if key.name == ENVIRONMENT)
    return ApiKeys((*of_environment, *read_keys(wanted.keys, None).keys))


def _check_there(bundle: Path, *, threads: int) -> None:
    """Loads the bundle on the cluster, whose libraries and processors may be others than here."""
    checked = ray.remote(num_cpus=0, max_retries=0)(_check).remote(bundle, threads)
    if reason := ray.get(checked):
        raise BundleError(f"{reason} (nothing was changed)")


def _check(bundle: Path, threads: int) -> str | None:
    try:
        Bundle.load(bundle, threads=threads)
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
    enable_token_auth_if_token_exists()
    try:
        ray.init(address=address or "auto", namespace="serve", logging_level=logging.ERROR, log_to_driver=False)
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
