"""A stand-in for the Hugging Face hub on this machine: the endpoints that medxlate's calls use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
MODEL = re.compile(r"/api/models/([\w.-]+/[\w.-]+)")
TOKEN = "hf_only_for_this_test"


@dataclass
class Repo:
    """A repository: the files of each commit, and the newest."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        content = json.dumps({k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
        self.main = hashlib.sha1((content + self.main).encode()).hexdigest()
        self.commits[self.main] = files
        return self.main


@dataclass
class Hub:
    """The server's state, and what was asked of it: method, path, Authorization."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Hub]:
    """Run the server until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def handle_all(self) -> None:
            held = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            if self.path == "/api/repos/create":
                self.create(json.loads(held))
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif self.path.startswith("/uploads/"):
                hub.uploads[self.path.rpartition("/")[2]] = held
                self.answer(200)
            elif self.path.endswith(".git/info/lfs/objects/batch"):
                self.batch(json.loads(held))
            elif found := FILE.fullmatch(self.path):
                self.file(*found.groups())
            elif found := MODEL.match(self.path):
                self.model(found[1], self.path[found.end() :], held)
            else:
                self.answer(404)

        do_HEAD = do_GET = do_POST = do_PUT = handle_all  # noqa: N815

        def readable(self, name: str) -> Repo | None:
            repo = hub.repos.get(name)
            hidden = repo is not None and repo.private
            if repo is None or (hidden and TOKEN not in self.headers.get("Authorization", "")):
                self.answer(404, X_Error_Code="RepoNotFound")
                return None
            return repo

        def file(self, name: str, revision: str, path: str) -> None:
            if (repo := self.readable(name)) is None:
                return
            commit = repo.main if revision == "main" else revision
            if commit not in repo.commits:
                self.answer(404, X_Error_Code="RevisionNotFound")
            elif path not in repo.commits[commit]:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            else:
                content = repo.commits[commit][path]
                tag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=commit)

        def create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted['organization']}/{wanted['name']}"
            if TOKEN not in self.headers.get("Authorization", ""):
                self.answer(401)
            elif name in hub.repos:
                self.answer(409, {"url": f"{hub.url}/{name}"})
            else:
                private = wanted.get("private") or wanted.get("visibility") == "private"
                hub.repos[name] = Repo(bool(private))
                self.answer(200, {"url": f"{hub.url}/{name}"})

        def model(self, name: str, what: str, held: bytes) -> None:
            if (repo := self.readable(name)) is None:
                return
            if what.startswith("/preupload/"):
                paths = [each["path"] for each in json.loads(held)["files"]]
                modes = {True: "lfs", False: "regular"}
                files = [
                    {"path": path, "shouldIgnore": False}
                    | {"uploadMode": modes[path.endswith(".safetensors")]}
                    for path in paths
                ]
                self.answer(200, {"files": files})
            elif what.startswith("/commit/"):
                oid = repo.commit(self.files(repo, held))
                url = f"{hub.url}/{name}/commit/{oid}"
                self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})
            else:
                self.answer(200, {"id": name, "private": repo.private, "sha": repo.main})

        def files(self, repo: Repo, held: bytes) -> dict[str, bytes]:
            files = dict(repo.commits.get(repo.main, {}))
            for line in held.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    files[entry["value"]["path"]] = hub.uploads[entry["value"]["oid"]]
            return files

        def batch(self, wanted: dict[str, Any]) -> None:
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/uploads/{each['oid']}"}}}
                for each in wanted["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(patch: pytest.MonkeyPatch, hub: Hub, home: Any, *, offline: bool = False) -> None:
    """Let huggingface_hub, which read its environment when it was loaded, use a hub and a cache."""
    import huggingface_hub.hf_api  # loads all that these calls use

    loaded = [each for name, each in sys.modules.items() if name.startswith("huggingface_hub.")]
    assert huggingface_hub.hf_api in loaded
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": offline,
    }
    for module in loaded:  # older versions take constants by name into modules
        for name in values.keys() & vars(module).keys():
            patch.setattr(module, name, values[name])
        if hasattr(module, "reset_sessions"):  # and keep whether they are offline in a session
            module.reset_sessions()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
