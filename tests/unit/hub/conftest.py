"""A portable folder that is written in no time, and a stand-in for the Hugging Face Hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from vit_adapter.hub import FolderContents, write_folder


@pytest.fixture
def contents() -> FolderContents:
    """A config that names a class but is not complete."""
    return FolderContents(
        config={
            "model": {"_target_": "detectron2.modeling.GeneralizedRCNN"},
            "dataloader": {"test": {"dataset": {"names": "custom_train"}, "mapper": {}}},
            "data": {},
            "task": {"name": "instances", "num_classes": "model.num_classes"},
        },
        classes={"thing_classes": ["cell"]},
        preprocessing={"pixel_mean": [1.5, 2.0, 3.0], "pixel_std": [1.0, 1.0, 1.0]},
        metrics={"bbox": {"AP": 12.5, "AP50": None, "AP-cell": 12.5}},
    )


@pytest.fixture
def folder(tmp_path: Path, contents: FolderContents) -> Path:
    """A complete portable folder."""
    weights = {"weight": torch.arange(6.0)}
    return write_folder(tmp_path / "model", contents, weights, card="card\n", licence="note\n")


class FakeHub(ThreadingHTTPServer):
    """The few requests of huggingface_hub that pushing and downloading need; one revision."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requested: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def commit_of(self, repository: str) -> str:
        """Forty hexadecimal digits that depend on the content."""
        files = sorted(self.repositories[repository].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "preupload" in parts:
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in files
            ]
            self._answer({"files": modes})
        elif "commit" in parts:
            self._commit("/".join(parts[2:4]), body)
        else:
            self._answer({"error": "unknown"}, 404)

    def _create(self, request: dict) -> None:
        name = f"{request.get('organization', 'owner')}/{request['name']}"
        self.server.repositories.setdefault(name, {})
        # Older versions of the library say it in another way.
        private = request.get("visibility") == "private" or request.get("private", False)
        self.server.private[name] = private
        self._answer({"url": f"{self.server.address}/{name}"})

    def _commit(self, repository: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[repository][line["value"]["path"]] = content
        commit = self.server.commit_of(repository)
        url = f"{self.server.address}/{repository}/commit/{commit}"
        self._answer({"commitUrl": url, "commitOid": commit, "success": True})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requested.append(path)
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repository = "/".join(parts[:2])
        files = self.server.repositories.get(repository)
        if files is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        commit = self.server.commit_of(repository)
        if "/resolve/" in path:
            self._send_file(files[parts[-1]], commit)
        elif parts[3] not in ("main", commit):
            self._answer({"error": "no revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in path:
            self._answer([_entry(name, content) for name, content in files.items()])
        else:
            self._answer({"id": repository, "sha": commit, "siblings": []})

    def _send_file(self, content: bytes, commit: str) -> None:
        tag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit}
        self._send(content, 200, headers, "application/octet-stream")

    def _answer(self, content: object, status: int = 200, headers: dict | None = None) -> None:
        self._send(json.dumps(content).encode(), status, headers or {}, "application/json")

    def _send(self, body: bytes, status: int, headers: dict[str, str], kind: str) -> None:
        self.send_response(status)
        headers = {**headers, "Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": oid}


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A running server that huggingface_hub takes for the Hub."""
    from huggingface_hub import constants

    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
