"""The web page as an application of its own on Ray Serve, and the way on which it asks the service.

Knows Ray Serve's deployments and handles; the page itself stands in `page`. One replica holds what each reader has
chosen so far.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import httpx
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from whale_ray.serving.auth.api_keys import ApiKeys
from whale_ray.serving.deployment.ingress import NAME, PAGE_NAME, entered, versioned
from whale_ray.serving.deployment.ray_metrics import RayMetrics
from whale_ray.serving.deployment.settings import PageSettings
from whale_ray.serving.metrics import tell
from whale_ray.serving.page.gradio_guard import FOLDER_VARIABLE, keep_sweeping, own_folder
from whale_ray.serving.page.service_client import SECONDS


class HandleTransport(httpx.AsyncBaseTransport):
    """Leads calls to the service's ingress, wherever in the cluster it runs."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The ingress' answer. Raises: httpx.ConnectError where its process ended, ReadTimeout where none comes."""
        body = await request.aread()
        address = request.url.raw_path.decode()
        try:
            async with asyncio.timeout(SECONDS):  # a handle waits for ever where there is nobody to answer
                asked = self._handle.call.remote(request.method, address, request.headers.raw, body)
                status, headers, content = await asked
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer came within {SECONDS:g} s") from error
        except (RayError, RayServeException) as error:
            raise httpx.ConnectError(str(error).partition("\n")[0]) from error
        return httpx.Response(status, headers=headers, content=content)


class Front:
    """The process that shows the page."""

    def __init__(self, settings: PageSettings, keys: ApiKeys) -> None:
        self._settings, self._keys = settings, entered(keys, settings)
        tell(RayMetrics())
        folder = own_folder(Path(tempfile.gettempdir()))
        os.environ[FOLDER_VARIABLE] = str(folder)
        keep_sweeping(folder)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from whale_ray.serving.page.blocks import build_page  # seconds that no other process needs to spend

        transport = HandleTransport(serve.get_deployment_handle(NAME, NAME))
        policy = self._settings.access_policy(self._keys)
        return build_page(transport, policy, self._settings.limits, echoed=True)


def page_application(settings: PageSettings, *, keys: ApiKeys) -> serve.Application:
    """The page beside the service of these settings. keys: those that callers must bring."""
    settings = PageSettings.model_validate(settings.model_dump(include=set(PageSettings.model_fields)))
    state = hashlib.sha256(
        f"{version('whale-ray')} {settings.model_dump_json()} {keys.fingerprint}".encode()
    ).hexdigest()[:16]
    deployment = serve.deployment(
        serve.ingress()(Front),
        name=PAGE_NAME,
        num_replicas=1,
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=2.0,  # pages that stay open hold a connection
        ray_actor_options={"num_cpus": 0},
        max_constructor_retry_count=1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return versioned(deployment, state).bind(settings, keys)
