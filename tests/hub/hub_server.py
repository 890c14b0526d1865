"""A local Hugging Face Hub: the part of its API that huggingface_hub 2.4 uses to download a model."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(?P<file>.+)")
STORE = re.compile(r"/store/([0-9a-f]{40})/(?P<file>.+)")
LARGE = (".safetensors", ".gguf")  # stored elsewhere; the hub redirects to them

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: commits, and the branches and tags that name them."""

    commits: dict[str, Files] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False  # the metadata of a gated repository is public, its files are not

    def commit(self, files: Files, *names: str) -> str:
        """Add a commit, move `names` to it, and return its hash."""
        commit = digest(repr((len(self.commits), sorted(files))).encode())
        self.commits[commit] = files
        self.names.update(dict.fromkeys(names, commit))
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Hub:
    """The server's repositories, its simulated failures, and the requests it got."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    down: int | None = None  # HTTP status of every response
    breaks_off: bool = False  # each connection ends within the first half of a large file
    requests: list[str] = field(default_factory=list)  # "METHOD path", in order

    def add(self, name: str, files: Files) -> Repository:
        """Add a repository with one commit, main."""
        self.repositories[name] = Repository()
        self.repositories[name].commit(files, "main")
        return self.repositories[name]

    def asked(self) -> list[str]:
        """The requests since the last call, except for the list of coding agents, which the library also fetches."""
        requests, self.requests = self.requests, []
        return [request for request in requests if not request.endswith("/api/agent-harnesses")]

    def downloaded(self) -> set[str]:
        """The files whose content was requested since the last call."""
        paths = [request.removeprefix("GET ") for request in self.asked() if request.startswith("GET ")]
        matches = [RESOLVE.fullmatch(path) or STORE.fullmatch(path) for path in paths]
        return {match["file"] for match in matches if match}

    def stored(self, oid: str) -> bytes | None:
        commits = (files for repository in self.repositories.values() for files in repository.commits.values())
        return next((content for files in commits for content in files.values() if digest(content) == oid), None)


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def files_of(directory: Path, *, without: str = r"\0") -> Files:
    """Name -> content of a directory's files, without those whose names match `without`."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not re.fullmatch(without, path.name)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.down is not None:
            self._say(self.hub.down)
        elif match := API.fullmatch(path):
            self._describe(match[1], match[2], unquote(match[3] or "main"))
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        elif (match := STORE.fullmatch(path)) and (content := self.hub.stored(match[1])) is not None:
            self._send_file(content, {"ETag": f'"{match[1]}"'}, large=True)
        else:
            self._say(404)

    def _found(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit; None if there is none, after an error response."""
        repository = self.hub.repositories.get(name)
        if repository is None:  # without a token, missing and private look the same
            self._say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        commit = repository.find(revision)
        if commit is None:
            self._say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
            return None
        return repository, commit

    def _describe(self, name: str, what: str | None, revision: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        files = repository.commits[commit]
        if what == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": digest(content)}
                for path, content in files.items()
            ]
            self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
            return
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        gated = "manual" if repository.gated else False
        about = {"id": name, "sha": commit, "siblings": siblings, "private": False, "gated": gated}
        self._send(json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        content = repository.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if repository.gated:
            message = f"Access to model {name} is restricted and you are not in the authorized list."
            self._say(403, headers | {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        elif content is None:
            self._say(404, headers | {"X-Error-Code": "EntryNotFound"})
        elif path.endswith(LARGE):
            oid = digest(content)
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'}
            store = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as the real hub's storage
            self._say(302, headers | linked | {"Location": f"{store}/store/{oid}/{path}"})
        else:
            self._send_file(content, headers | {"ETag": f'"{digest(content)}"'})

    def _send_file(self, content: bytes, headers: dict[str, str], *, large: bool = False) -> None:
        first = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if first:
            headers |= {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        half = len(content) // 2 if large and self.hub.breaks_off else None
        self._send(content[first:], headers, 206 if first else 200, None if half is None else max(half - first, 0))

    def _say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._send(b"", headers or {}, status)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.close_connection = self.close_connection or cut is not None


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub during the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
