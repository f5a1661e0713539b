"""A tiny hub: the few routes of the Hugging Face hub that huggingface_hub calls to push and to pull, over HTTP."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        commits: files by path, by commit.
        branches: the newest commit of each branch of each repository.
        private: whether each repository is private.
        asked: method and path of every request.
        served: content that is sent in place of a file's own, by path.
        sizes: sizes that are listed in place of a file's own, by path.
        token: what a write must come with; empty: anything.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    served: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    token: str = ""
    url: str = ""

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with exactly these files; return its name."""
        known = json.dumps({path: hashlib.sha1(content).hexdigest() for path, content in sorted(files.items())})
        name = hashlib.sha1(f"{repo} {known}".encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches.setdefault(repo, {})[branch] = name
        self.private.setdefault(repo, False)
        return name

    def resolve(self, repo: str, revision: str) -> str | None:
        """Return the commit that a branch or commit means."""
        found = self.branches.get(repo, {}).get(revision, revision)
        return found if found in self.commits else None

    def downloads(self) -> set[str]:
        """Return the paths of all files that were fetched."""
        parts = (line.split("/resolve/", 1) for line in self.asked if line.startswith("GET") and "/resolve/" in line)
        return {part[1].split("/", 1)[1] for part in parts}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._resolve(send=False)

    def do_GET(self) -> None:
        path = self._noted("GET")
        if "/resolve/" in path:
            self._resolve(send=True)
            return
        words = path.removeprefix("/api/models/").split("/")
        repo = "/".join(words[:2])
        revision = words[3] if len(words) > 3 else "main"
        commit = self.hub.resolve(repo, revision)
        if repo not in self.hub.branches or commit is None:
            self._refuse("RepoNotFound" if repo not in self.hub.branches else "RevisionNotFound")
            return
        files = self.hub.commits[commit]
        sizes = {name: self.hub.sizes.get(name, len(content)) for name, content in files.items()}
        if len(words) > 2 and words[2] == "tree":
            entry = {"type": "file", "oid": "0" * 40}
            self._answer([{**entry, "path": name, "size": size} for name, size in sizes.items()])
            return
        listed = [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in sizes.items()]
        facts = {"id": repo, "modelId": repo, "private": self.hub.private[repo], "tags": [], "downloads": 0}
        self._answer({**facts, "sha": commit, "siblings": listed})

    def do_POST(self) -> None:
        path = self._noted("POST")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer({"error": "Invalid username or password."}, status=401)
            return
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in path:
            asked = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif "/branch/" in path:
            repo, _, branch = path.removeprefix("/api/models/").partition("/branch/")
            self.hub.branches[repo].setdefault(branch, self.hub.branches[repo]["main"])
            self._answer({})
        else:
            self._commit(path, body)

    def _create(self, asked: dict[str, Any]) -> None:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        is_new = name not in self.hub.branches
        if is_new:
            self.hub.private[name] = "private" in (asked.get("visibility"), asked.get("private") and "private")
            self.hub.commit(name, {".gitattributes": b""})
        self._answer({"url": f"{self.hub.url}/{name}", "name": name}, status=200 if is_new else 409)

    def _commit(self, path: str, body: bytes) -> None:
        repo, _, branch = path.removeprefix("/api/models/").partition("/commit/")
        files = dict(self.hub.commits[self.hub.branches[repo][branch]])
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            elif part["key"] == "deletedFile":
                del files[part["value"]["path"]]
        name = self.hub.commit(repo, files, branch)
        facts = {"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{repo}/commit/{name}"}
        self._answer({**facts, "hookOutput": "", "pullRequestUrl": None})

    def _resolve(self, *, send: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        repo, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        commit = self.hub.resolve(repo, revision)
        content = None if commit is None else self.hub.commits[commit].get(name)
        if commit is None or content is None:
            self._refuse("EntryNotFound")
            return
        content = self.hub.served.get(name, content)
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _noted(self, method: str) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        return path

    def _refuse(self, code: str) -> None:
        self._answer({"error": code}, status=404, code=code)

    def _answer(self, value: Any, status: int = 200, code: str = "") -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
