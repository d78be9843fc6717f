"""A Hugging Face hub on this machine: the calls that create a repository and upload to it, LFS included."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"
USER = "ada"


@dataclass
class FakeHub:
    """Its repositories, and what was asked of it."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by path."""
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)
    """The repository, and the paths that a commit adds."""
    lfs: dict[str, bytes] = field(default_factory=dict)
    """Large files by their hash."""
    unknown: list[str] = field(default_factory=list)
    """Paths that it has no answer for."""
    fails_at: str | None = None
    """A part of a path that is answered with status 500."""
    sha: str = "0" * 40
    """The newest commit of each repository."""
    calls: list[str] = field(default_factory=list)
    """Paths that were asked for."""


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def answer(self, status: int, value: object = None, error: str = "", content: bytes = b"") -> None:
            body = content or (b"" if value is None else json.dumps(value).encode())
            self.send_response(status)
            if error:
                self.send_header("X-Error-Code", error)
                self.send_header("X-Error-Message", error)
            self.send_header("ETag", '"0"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_call(self) -> None:
            body, path = self.body(), self.path.split("?")[0]
            hub.calls.append(path)
            if hub.fails_at and hub.fails_at in path:
                self.answer(500, {"error": "out of order"})
            elif path.startswith("/lfs/"):
                hub.lfs[path.rsplit("/", 1)[1]] = body
                self.answer(200)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid username or password."})
            elif path == "/api/whoami-v2":
                self.answer(200, {"name": USER, "type": "user", "auth": {"type": "access_token"}})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            else:
                self.of_repo(path, body)

        do_GET = do_POST = do_PUT = do_HEAD = handle_call

        def create(self, request: dict) -> None:
            owner = request.get("organization") or USER
            if owner != USER:
                self.answer(403, {"error": f"You don't have the rights to create a model under {owner}"})
                return
            name = f"{owner}/{request['name']}"
            hub.repos[name], hub.private[name] = (
                {},
                request.get("visibility") == "private" or request.get("private") is True,
            )
            self.answer(200, {"url": f"{hub.url}/{name}"})

        def of_repo(self, path: str, body: bytes) -> None:
            name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
            files = hub.repos.get(name)
            if files is None:
                self.answer(404, {"error": "Repository not found"}, "RepoNotFound")
            elif path == f"/api/models/{name}":
                siblings = [{"rfilename": file} for file in files]
                self.answer(
                    200,
                    {
                        "id": name,
                        "sha": hub.sha,
                        "siblings": siblings,
                        "private": hub.private[name],
                        "tags": [],
                    },
                )
            elif "/preupload/" in path:
                asked = json.loads(body)["files"]
                modes = [
                    {"path": one["path"], "shouldIgnore": False, "oid": None,
                     "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".gguf")) else "regular"}
                    for one in asked
                ]  # fmt: skip
                self.answer(200, {"files": modes})
            elif path.endswith("/objects/batch"):
                objects = [
                    one | {"actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            elif "/commit/" in path:
                self.commit(name, files, body)
            elif "/resolve/" in path:
                content = files.get(path.split("/resolve/main/", 1)[-1])
                if content is None:
                    self.answer(404, {"error": "Entry not found"}, "EntryNotFound")
                else:
                    self.answer(200, content=content)
            else:
                hub.unknown.append(path)
                self.answer(404, {"error": path})

        def commit(self, name: str, files: dict[str, bytes], body: bytes) -> None:
            paths, lines = [], [json.loads(line) for line in body.decode().splitlines()]
            if lines[0]["value"].get("parentCommit", hub.sha) != hub.sha:
                self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.lfs[value["oid"]]
                else:
                    continue
                paths.append(value["path"])
            hub.commits.append((name, sorted(paths)))
            url = f"{hub.url}/{name}/commit/0"
            self.answer(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})

    return Handler


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that listens on loopback until the end of the block."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
