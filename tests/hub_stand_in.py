"""A stand-in of the Hugging Face Hub: the HTTP calls that huggingface_hub makes to push and to pull a model.

All files are stored in commits (upload mode `regular`); LFS and Xet storage are not part of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

READER, WRITER = "hf_reader", "hf_writer"


@dataclass
class Repository:
    """Commits of a model; `refs` names branches and tags."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        return oid


class Hub(ThreadingHTTPServer):
    """The server; `repositories` by OWNER/NAME, `calls` as METHOD PATH."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.calls: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", url: str = "") -> None:
        self.status, self.code, self.url = status, code, url


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.calls.append(f"{self.command} /{path}")
        headers: dict[str, str] = {}
        try:
            content, headers = (
                self._api(path.removeprefix("api/"), body) if path.startswith("api/") else self._file(path)
            )
            status = 200
        except _RefusalError as refusal:
            about = {"error": refusal.code or "refused", "url": refusal.url}
            status, content = refusal.status, json.dumps(about).encode()
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _require_writer(self) -> None:
        if self._token() != WRITER:
            raise _RefusalError(403 if self._token() else 401)

    def _repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and self._token() not in (READER, WRITER)):
            raise _RefusalError(404 if self._token() else 401, "RepoNotFound")
        return found

    def _oid(self, repository: Repository, revision: str) -> str:
        oid = repository.refs.get(revision, revision)
        if oid not in repository.commits:
            raise _RefusalError(404, "RevisionNotFound")
        return oid

    def _file(self, path: str) -> tuple[bytes, dict[str, str]]:
        owner, name, _, revision, file = path.split("/", 4)
        repository = self._repository(f"{owner}/{name}")
        if repository.gated:
            raise _RefusalError(403, "GatedRepo")
        oid = self._oid(repository, revision)
        if file not in repository.commits[oid]:
            raise _RefusalError(404, "EntryNotFound")
        content = repository.commits[oid][file]
        return content, {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}

    def _api(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        if path == "validate-yaml":
            return b'{"errors": [], "warnings": []}', {}
        if path == "repos/create":
            self._require_writer()
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repositories:
                raise _RefusalError(409, url=f"{self.server.url}/{name}")
            self.server.repositories[name] = Repository(private=asked.get("visibility") == "private")
            self.server.repositories[name].commit("main", {".gitattributes": b"*.npy filter=lfs\n"})
            return json.dumps({"url": f"{self.server.url}/{name}"}).encode(), {}
        _, owner, name, *rest = path.split("/")
        repository = self._repository(f"{owner}/{name}")
        call, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        return json.dumps(self._call(repository, f"{owner}/{name}", call, revision, body)).encode(), {}

    def _call(self, repository: Repository, name: str, call: str, revision: str, body: bytes) -> Any:
        if call == "branch":
            self._require_writer()
            if revision in repository.refs:
                raise _RefusalError(409)
            repository.refs[revision] = repository.refs["main"]
            return {}
        oid = self._oid(repository, revision)
        files = repository.commits[oid]
        if call == "revision":
            return {"id": name, "sha": oid, "siblings": [{"rfilename": file} for file in files]}
        if call == "tree":
            return [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ]
        self._require_writer()
        if call == "preupload":
            paths = [one["path"] for one in json.loads(body)["files"]]
            return {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in paths]}
        assert call == "commit", call
        changed = dict(files)
        for line in body.splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                changed[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
            elif operation["key"] == "deletedFile":
                del changed[operation["value"]["path"]]
        oid = repository.commit(revision, changed)
        return {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that serves until the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@contextmanager
def logged_in_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub to which a person with a token that may write is logged in; its cache below `folder` is empty."""
    from huggingface_hub import constants

    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix("https://huggingface.co")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub
