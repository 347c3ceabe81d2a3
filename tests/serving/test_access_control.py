"""Declared scopes: a route without one does not start, and each documented call needs the scope that OpenAPI shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.testclient import TestClient
from services import enrolment_server, plain_server, web_service
from starlette.routing import Mount
from test_routes_identify import check_problem

from whale_ray.serving.auth.access_control import AccessPolicy, allow_anonymous, authorize, check_declared_scopes
from whale_ray.serving.auth.api_keys import IDENTIFY, read_keys
from whale_ray.serving.http import app as app_module
from whale_ray.serving.http.app import build_app

ANY_KEY, PUBLIC = "any key", "public"
SCOPES = {
    "POST /v1/identify": "identify",
    "GET /v1/model": "identify",
    "GET /v1/individuals": "identify",
    "GET /v1/individuals/{id}": "identify",
    "GET /v1/images/{image}": "identify",
    "GET /v1/examples": "identify",
    "GET /v1/examples/{place}": "identify",
    "GET /v1/versions": "identify",
    "POST /v1/individuals/{id}/images": "enrol",
    "DELETE /v1/individuals/{id}/images/{image}": "enrol",
    "DELETE /v1/individuals/{id}": "enrol",
    "POST /v1/versions/{number}/restore": "enrol",
    "GET /v1/queries": "enrol",
    "GET /v1/queries/{id}/thumbnail": "enrol",
    "POST /v1/queries/{id}/confirm": "enrol",
    "DELETE /v1/queries/{id}": "enrol",
    "POST /v1/individuals/{id}/proposals": "propose",
    "GET /v1/proposals": "enrol",
    "GET /v1/proposals/{number}/thumbnail": "enrol",
    "POST /v1/proposals/{number}/approve": "enrol",
    "DELETE /v1/proposals/{number}": "enrol",
    "POST /v1/session": ANY_KEY,
    "GET /v1/session": ANY_KEY,
    "DELETE /v1/session": ANY_KEY,
    "GET /healthz": PUBLIC,
}
UNDOCUMENTED = {
    "GET /openapi.json": "identify",
    "GET /docs": "identify",
    "GET /docs/swagger-ui.css": "identify",
    "GET /": PUBLIC,
    "GET /nowhere": ANY_KEY,
    "PUT /v1/model": ANY_KEY,
    "OPTIONS /v1/identify": ANY_KEY,
}
KEYS = {name: f"the-key-of-{name.replace(',', '-and-')}" for name in ("identify", "enrol", "identify,enrol", "propose")}


@pytest.fixture(scope="module")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("scopes")
    file = folder / "keys"
    file.write_text("".join(f"key{number} {scopes} {key}\n" for number, (scopes, key) in enumerate(KEYS.items())))
    file.chmod(0o600)
    policy = AccessPolicy(read_keys(file, None))
    with enrolment_server(bundle, folder, policy) as address, httpx.Client(base_url=address) as caller:
        yield caller


def documented_scopes(schema: dict[str, Any]) -> dict[str, str]:
    found = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            alternatives = operation.get("security")
            if alternatives is None:
                scope = PUBLIC
            else:
                assert [list(one) for one in alternatives] == [["key"], ["session"]]
                (needed,) = {tuple(scopes) for one in alternatives for scopes in one.values()}
                scope = ", ".join(needed) or ANY_KEY
            found[f"{method.upper()} {path}"] = scope
    return found


def test_openapi_shows_the_scope_of_each_call(client: httpx.Client) -> None:
    schema = client.get("/openapi.json", headers={"Authorization": f"Bearer {KEYS['identify']}"}).json()
    assert documented_scopes(schema) == SCOPES
    assert set(schema["components"]["securitySchemes"]) == {"key", "session"}
    assert "security" not in schema


@pytest.mark.parametrize("given", [None, "unknown", *KEYS])
@pytest.mark.parametrize(("call", "scope"), [*SCOPES.items(), *UNDOCUMENTED.items()])
def test_a_call_is_accepted_with_its_scope_only(client: httpx.Client, call: str, scope: str, given: str | None) -> None:
    client.cookies.clear()
    method, _, path = call.partition(" ")
    path = path.format(id="unknown-individual", image="unknown.jpg", number=0, place=0)
    headers = {} if given is None else {"Authorization": f"Bearer {KEYS.get(given, 'an unknown key')}"}
    answer = client.request(method, path, headers=headers)
    if scope == PUBLIC:
        assert answer.status_code in (200, 307)
    elif given not in KEYS:
        check_problem(answer, 401, "Authorization: Bearer")
    elif scope == ANY_KEY or scope in given.split(","):
        assert answer.status_code not in (401, 403)
        assert answer.status_code < 500
    else:
        check_problem(answer, 403, f"the scope `{scope}`")


def test_every_call_is_accepted_by_a_service_without_keys(plain: str) -> None:
    with httpx.Client(base_url=plain) as keyless:
        for call in (*SCOPES, *UNDOCUMENTED):
            method, _, path = call.partition(" ")
            path = path.format(id="unknown-individual", image="unknown.jpg", number=0, place=0)
            answer = keyless.request(method, path)
            assert answer.status_code != 401
            assert "the scope `" not in answer.text


def undeclared() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/secret")
    async def secret() -> None: ...

    return app


def test_a_route_without_a_declared_scope_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"each route must declare the scope .* /secret declares none\. Add"):
        check_declared_scopes(undeclared())


def test_a_route_of_an_included_router_is_refused_too() -> None:
    inner, outer, app = APIRouter(), APIRouter(prefix="/v1"), FastAPI(openapi_url=None)
    inner.get("/secret", dependencies=[])(allow_anonymous)
    outer.include_router(inner)
    app.include_router(outer)
    with pytest.raises(RuntimeError, match=r"/v1/secret declares none"):
        check_declared_scopes(app)


def test_an_application_below_the_service_is_refused() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, routes=[Mount("/below", undeclared())])
    with pytest.raises(RuntimeError, match=r"/below declares none"):
        check_declared_scopes(app)


def test_the_frameworks_own_routes_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"/openapi\.json declares none"):
        check_declared_scopes(FastAPI())


def test_declared_routes_are_accepted() -> None:
    app = FastAPI(openapi_url=None)
    for path, declared in (
        ("/scope", Security(authorize, scopes=[IDENTIFY])),
        ("/key", Security(authorize)),
        ("/public", Security(allow_anonymous)),
    ):
        app.get(path, dependencies=[declared])(allow_anonymous)
    check_declared_scopes(app)


def test_the_service_is_not_built_with_a_route_without_a_scope(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, router = web_service(bundle), APIRouter()
    router.get("/v1/secret")(allow_anonymous)
    monkeypatch.setattr(app_module.routes_session, "router", router)
    with pytest.raises(RuntimeError, match=r"/v1/secret declares none"):
        build_app({"default": service})
    service.recognizer.decoders.close()


def test_the_service_does_not_start_with_a_route_that_was_added_later(bundle: Path) -> None:
    service = web_service(bundle)
    app = build_app({"default": service})
    app.get("/v1/secret")(allow_anonymous)
    with pytest.raises(RuntimeError, match=r"/v1/secret declares none"), TestClient(app):
        pass
    service.recognizer.decoders.close()


def test_a_call_without_a_key_is_refused_before_overload_is_checked(bundle: Path) -> None:
    service = web_service(bundle, most_calls=1)
    policy = AccessPolicy(read_keys(None, KEYS["identify"]))
    with plain_server(service, policy) as address, service.admission.admit(1):
        check_problem(httpx.post(f"{address}/v1/identify", content=b"x"), 401)
        headers = {"Authorization": f"Bearer {KEYS['identify']}"}
        check_problem(httpx.post(f"{address}/v1/identify", content=b"x", headers=headers), 503, "Try again")
