"""The server: the part of the hub's API that huggingface_hub uses to find and to download files.

Requests that it must spoil are named by `Fault`s, and all that were made are in `requests`.
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.hub.repositories import LARGE_BYTES, Kind, Repository, entry, etag

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
BLOB = re.compile(r"/blobs/(\w+)")
CHUNK_BYTES = 2**14


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path matches."""

    path: str  # a regular expression, searched in the path
    status: int = 0  # the answer, unless it is 0
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET|HEAD"
    cut_at: int = 0  # bytes after which the connection breaks
    delay_s: float = 0.0  # before the answer
    bytes_per_s: float = 0.0
    times: int = 1_000_000


class Request(NamedTuple):
    """A request that was answered."""

    method: str
    path: str
    range: str
    token: str | None
    status: int


class Hub:
    """A running hub. Tokens that it knows are those of `users`."""

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.renamed: dict[str, str] = {}  # names of repositories that have another name now
        self.users: set[str] = set()
        self.faults: list[Fault] = []
        self.counting = threading.Lock()  # every request has a thread of its own
        self.requests: list[Request] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.server.hub = self  # type: ignore[attr-defined]
        self.port: int = self.server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, kind: Kind, name: str, files: Mapping[str, bytes | str], **access: object) -> Repository:
        """Add a repository with a first commit."""
        found = self.repositories[kind, name] = Repository(kind, name, **access)  # type: ignore[arg-type]
        found.push(dict(files))
        return found

    def fault(self, method: str, path: str) -> Fault | None:
        """Return what goes wrong with a request, and count it."""
        with self.counting:
            for fault in self.faults:
                if fault.times > 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def downloads(self, name: str) -> list[Request]:
        """Return the requests for the content of a file, also of a large one that is stored apart."""
        blobs = {
            etag(data)
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for path, data in files.items()
            if path == name
        }
        return [
            found for found in self.requests
            if found.method == "GET" and found.status < 300
            and (found.path.endswith(f"/{name}") or found.path.rpartition("/")[2] in blobs)
        ]  # fmt: skip

    def stop(self) -> None:
        """Be gone: connections are refused from here on."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def running(port: int = 0) -> Iterator[Hub]:
    """Yield a hub that answers until the end of the block, or until it is stopped."""
    hub = Hub(port)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if thread.is_alive():
            hub.stop()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(url.path)
        fault = self.hub.fault(self.command, path)
        if fault and fault.delay_s:
            time.sleep(fault.delay_s)
        if fault and fault.status:
            return self.refuse(fault.status, "", "", fault.headers)
        if self.token and self.token not in self.hub.users:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if found := BLOB.fullmatch(path):
            return self.blob(found[1], fault)
        if found := API.fullmatch(url.path):  # with %2F in the name of a revision
            return self.api(found)
        if found := FILE.fullmatch(url.path):
            return self.file(found, fault)
        return self.refuse(404, "", "no such page")

    # What is asked for

    def repository(self, kind: str, name: str) -> Repository | None:
        """Return a repository, or answer the request if there is none to be seen."""
        if name in self.hub.renamed:
            self.answer(307, b"", {"Location": self.path.replace(name, self.hub.renamed[name], 1)})
            return None
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not found.may_read(self.token)):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        if found.disabled:
            self.refuse(403, "", "Access to this resource is disabled.")
            return None
        return found

    def api(self, found: re.Match[str]) -> None:
        """Answer about a repository, or list its files."""
        kind, name, what, revision, _ = found.groups()
        repository = self.repository(kind, name)
        if repository is None:
            return
        commit = repository.commit_of(urllib.parse.unquote(revision or "main"))
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if what == "tree":
            return self.json([entry(path, data, repository.sizes.get(path)) for path, data in sorted(files.items())])
        about = {
            "_id": "0", "id": name, "modelId": name, "sha": commit, "private": repository.private,
            "gated": "manual" if repository.gated else False, "disabled": False, "tags": [], "downloads": 0,
            "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }  # fmt: skip
        return self.json(about)

    def file(self, found: re.Match[str], fault: Fault | None) -> None:
        """Answer with a file, or with a redirect to where a large one is stored."""
        kind, name, revision, path = found.groups()
        repository = self.repository("datasets" if kind else "models", name)
        if repository is None:
            return
        if not repository.may_read(self.token):
            return self.refuse(403 if self.token else 401, "GatedRepo", f"Access to {name} is restricted")
        commit = repository.commit_of(urllib.parse.unquote(revision))
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[commit].get(urllib.parse.unquote(path))
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if len(data) > LARGE_BYTES:
            place = f"http://localhost:{self.hub.port}/blobs/{etag(data)}"  # another host: no token may go there
            linked = {"Location": place, "X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
            return self.answer(302, b"", headers | linked)
        return self.content(data, headers, fault)

    def blob(self, digest: str, fault: Fault | None) -> None:
        """Answer with a large file."""
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for data in files.values():
                    if etag(data) == digest:
                        return self.content(data, {}, fault)
        return self.refuse(404, "", "no such blob")

    # Answers

    def content(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        """Answer with data, or with the part of it that is asked for."""
        headers = headers | {"ETag": f'"{etag(data)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.answer(200, data, headers, fault)
        start, stop = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(data)
        if start >= len(data):
            return self.answer(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        part = data[start:stop]
        place = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return self.answer(206, part, headers | {"Content-Range": place}, fault)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        """Answer with an error as the hub does: its code and message are in headers."""
        named = {"X-Error-Code": code, "X-Error-Message": message}
        body = json.dumps({"error": message}).encode()
        self.answer(status, body, {name: value for name, value in named.items() if value} | dict(headers))

    def answer(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        """Send an answer, slowly or only in part if a fault says so."""
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range") or "", self.token, status))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = fault.cut_at if fault and fault.cut_at else len(body)
        try:
            for start in range(0, cut, CHUNK_BYTES):
                self.wfile.write(body[start : min(start + CHUNK_BYTES, cut)])
                if fault and fault.bytes_per_s:
                    time.sleep(CHUNK_BYTES / fault.bytes_per_s)
        except ConnectionError:
            self.close_connection = True
        if cut < len(body):
            self.close_connection = True
