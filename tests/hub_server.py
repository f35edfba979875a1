"""A server that speaks enough of the Hugging Face hub's protocol for its client library, over repositories in memory.

It serves repository information, trees, files (ranges, ETags, LFS headers), the creation of repositories and branches, LFS uploads
and commits. It can cut connections, damage contents, send slowly, and refuse tokens; and it keeps a list of its requests.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"
READ_TOKEN = "hf_may_only_read"
_LFS_FROM = 10_000  # bytes; the hub itself starts at 10 MB


@dataclass
class Repository:
    """Commits, newest last, and the branches that point at them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        names = b"".join(name.encode() + data for name, data in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)} {branch}".encode() + names).hexdigest()
        self.commits[oid], self.refs[branch] = dict(files), oid
        self.messages.append(message)
        return oid


@dataclass
class Request:
    """One request, with the bytes of its answer's body that were sent."""

    method: str
    path: str
    range: str | None
    sent: int = 0


@dataclass
class HubServer:
    """The state of a server; tests change it while it runs."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS objects that were uploaded
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, list[int]] = field(
        default_factory=dict
    )  # file -> numbers of bytes after which answers break, one each
    damaged: dict[str, int] = field(default_factory=dict)  # file -> number of answers with a changed byte
    slow: dict[str, float] = field(default_factory=dict)  # file -> seconds for each 64 KiB
    pause: float = 0.0  # seconds before the answer to an upload
    status: int | None = None  # a status for every request, such as 503

    def add(self, name: str, folder: Path, **options: Any) -> Repository:
        """A repository with a folder's files as its only commit."""
        repository = Repository(**options)
        repository.commit(files_of(folder))
        self.repositories[name] = repository
        return repository

    def downloads(self) -> dict[str, int]:
        """Bytes that were sent of each file since the list of requests was cleared."""
        sent: dict[str, int] = {}
        for request in self.requests:
            if request.method == "GET" and "/resolve/" in request.path:
                name = request.path.split("/resolve/")[1].split("/", 1)[1]
                sent[name] = sent.get(name, 0) + request.sent
        return sent


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def hub_environment(server_url: str, home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that uses the server, with a cache of its own, nobody's login and HTTP transfers."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ours = {"HF_ENDPOINT": server_url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**others, **ours, "OMP_NUM_THREADS": "1", **more}


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server on a free port of this machine until the context ends."""
    state = HubServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.request_record = Request(self.command, path, self.headers.get("Range"))
        self.state.requests.append(self.request_record)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.state.status is not None:
                raise _Refused(self.state.status)
            self._route(path, body)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, {k: v for k, v in headers.items() if v}, b'{"error": "refused"}')
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, body: bytes) -> None:
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+?)/(.+)", path):
            return self._file(*match.groups())
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/objects/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            time.sleep(self.state.pause)
            self.state.objects[match[1]] = body
            return self._send(200, {}, b"")
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(match[1], json.loads(body))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit|branch)/(.+))?", path)
        if match is None:
            raise _Refused(404)
        name, what, revision = match.groups()
        return getattr(self, f"_{what or 'revision'}")(name, revision or "main", body)

    # Reading.

    def _repository(self, name: str, write: bool = False) -> Repository:
        token, repository = self._token(), self.state.repositories.get(name)
        if repository is None or (repository.private and not token):
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if write and token != TOKEN:
            raise _Refused(403, message="You don't have the rights to write to this repository")
        return repository

    def _token(self) -> str:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", TOKEN, READ_TOKEN):
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return token

    def _commit_of(self, repository: Repository, revision: str) -> str:
        oid = repository.refs.get(revision, revision)
        if oid not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    def _revision(self, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(name)
        oid = self._commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[oid]]
        facts = {"id": name, "modelId": name, "sha": oid, "private": repository.private, "siblings": siblings}
        self._json({**facts, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(name)
        rows = []
        for path, data in repository.commits[self._commit_of(repository, revision)].items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
            if len(data) >= _LFS_FROM:
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            rows.append(row)
        self._json(rows)

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        oid = self._commit_of(repository, revision)
        if repository.gated and self._token() != TOKEN:
            raise _Refused(403, "GatedRepo", "Access to model is restricted")
        data = repository.commits[oid].get(path)
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        if len(data) >= _LFS_FROM:
            headers["ETag"] = headers["X-Linked-ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data))
        else:
            headers["ETag"] = f'"{git_oid(data)}"'
        if self.command == "GET" and self.state.damaged.get(path, 0) > 0:
            self.state.damaged[path] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cuts = self.state.cut.get(path)
        end = start + cuts.pop(0) if cuts and self.command == "GET" else None
        self._send(status, headers, data[start:], data[start:end], self.state.slow.get(path))

    # Writing.

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if self._token() != TOKEN:
            raise _Refused(403 if self._token() else 401, message="You may not create repositories")
        existing = name in self.state.repositories
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        repository = self.state.repositories.setdefault(name, Repository(private=private))
        if not existing:
            repository.commit({".gitattributes": b"*.onnx filter=lfs\n"}, message="initial commit")
        self._json({"url": f"{self.state.url}/{name}", "id": name, "name": name}, 409 if existing else 200)

    def _branch(self, name: str, branch: str, body: bytes) -> None:
        repository = self._repository(name, write=True)
        existing = branch in repository.refs
        repository.refs.setdefault(branch, repository.refs["main"])
        self._json({}, 409 if existing else 200)

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(name, write=True)
        there = repository.commits[self._commit_of(repository, revision)]
        rows = []
        for file in json.loads(body)["files"]:
            data = there.get(file["path"])
            mode = "lfs" if file["size"] >= _LFS_FROM else "regular"
            oid = None
            if data is not None:
                oid = hashlib.sha256(data).hexdigest() if mode == "lfs" else git_oid(data)
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": rows})

    def _batch(self, name: str, wanted: dict[str, Any]) -> None:
        self._repository(name, write=True)
        rows = []
        for item in wanted["objects"]:
            row = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.state.objects:
                row["actions"] = {"upload": {"href": f"{self.state.url}/objects/{item['oid']}", "header": {}}}
            rows.append(row)
        self._json({"transfer": "basic", "objects": rows})

    def _commit(self, name: str, branch: str, body: bytes) -> None:
        repository = self._repository(name, write=True)
        files = dict(repository.commits[repository.refs[branch]])
        message = ""
        for line in map(json.loads, body.decode().splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
        oid = repository.commit(files, branch, message)
        url = f"{self.state.url}/{name}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Answers.

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, part: bytes | None = None, pause: float | None = None
    ) -> None:
        """Send `body`; or only `part` of it, and break the connection."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = memoryview(body if part is None else part)
        for start in range(0, len(sent), 1 << 16):
            self.wfile.write(sent[start : start + (1 << 16)])
            self.request_record.sent += len(sent[start : start + (1 << 16)])
            if pause:
                time.sleep(pause)
        if len(sent) < len(body):
            self.close_connection = True
