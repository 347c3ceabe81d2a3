"""OpenAPI document: shared responses and request bodies, and Swagger UI served from this host."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse

from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import IDENTIFY
from whale_ray.serving.problem_details import PROBLEM_TYPE, Problem, RefusalError

_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_BINARY = {"type": "string", "format": "binary"}
_PROBLEM = {"content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
JPEG_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {"schema": _BINARY}}}}
CSV_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "array", "items": _BINARY}},
                }
            },
        },
    }
}
_REASONS = {
    400: "Malformed",
    401: "Missing or unknown API key",
    403: "The key lacks the scope, or the call comes from a page of another site",
    404: "Not in the gallery, or unknown model",
    408: "The body came too slowly",
    409: "Enrolled under another individual",
    413: "Too many bytes, pixels or photographs",
    415: "Unsupported image type",
    421: "Unknown host name in the Host header",
    422: "The image cannot be decoded",
    429: "Too many calls with this key; see Retry-After",
    503: "Too many calls at once; see Retry-After",
}

router = APIRouter(include_in_schema=False)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of these statuses and of 400, 401, 403, 421 and 429, all of them problems."""
    # `default` also keeps the framework from announcing its own 422
    reasons: dict[int | str, str] = {status: _REASONS[status] for status in (400, 401, 403, 421, 429, *statuses)}
    return {status: {"description": text, **_PROBLEM} for status, text in {**reasons, "default": "Refused"}.items()}


@router.get("/openapi.json", dependencies=[Security(authorize, scopes=[IDENTIFY])])
async def openapi_schema(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", dependencies=[Security(authorize, scopes=[IDENTIFY])])
async def docs() -> Response:
    """Return Swagger UI; it loads nothing from other hosts."""
    html = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="whale_ray",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        # its validator's badge would be loaded from elsewhere
        swagger_ui_parameters={"validatorUrl": None},
    )
    html.headers["Content-Security-Policy"] = _POLICY
    return html


@router.get("/docs/{name}", dependencies=[Security(authorize, scopes=[IDENTIFY])])
async def docs_file(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in _FILES:
        raise RefusalError(404, f"/docs has no file {name!r}. See /docs")
    data = files("fastapi_swagger").joinpath("resources", name).read_bytes()
    return Response(data, media_type=_FILES[name], headers={"Cache-Control": "private, max-age=86400"})


def add_problem_schema(app: FastAPI) -> None:
    """Add the schema of problem documents to the application's OpenAPI document."""
    schema = app.openapi()
    schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
