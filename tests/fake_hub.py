"""A Hugging Face hub on this machine with a data set and models, as far as its client asks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REPOSITORY = "own/rows"
# Commit to the file's prompts; the later commit is what `main` means.
COMMITS = {"a" * 40: [f"old {n}" for n in range(5)], "b" * 40: [f"new {n}" for n in range(6)]}
REVISIONS = {"main": "b" * 40, "v1": "a" * 40} | {commit: commit for commit in COMMITS}
MODEL_COMMIT = "c" * 40

_README, _FOLDER, _DATA = "README.md", "data", "data/train.jsonl"


@contextmanager
def fake_hub(models: dict[str, Path] | None = None) -> Iterator[str]:
    """The address of a running hub; of each model's folder it has one commit."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"models": models or {}}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(commit: str) -> dict[str, bytes]:
    rows = [{"question": prompt, "bad": "No."} for prompt in COMMITS[commit]]
    return {_README: b"# Rows\n", _DATA: "".join(json.dumps(row) + "\n" for row in rows).encode()}


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: dict[str, Path]

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if (name := "/".join(parts[2:4])) in self.models and parts[:2] == ["api", "models"]:
            files = sorted(self.models[name].iterdir())
            if "tree" in parts:
                entries = [_entry(path.name, path.read_bytes()) for path in files]
                return self._send(200, body=json.dumps(entries).encode())
            names = [{"rfilename": path.name} for path in files]
            info = {"id": name, "sha": MODEL_COMMIT, "siblings": names, "tags": []}
            return self._send(200, body=json.dumps(info).encode())
        if (name := "/".join(parts[:2])) in self.models and parts[2] == "resolve":
            return self._content((self.models[name] / parts[4]).read_bytes(), MODEL_COMMIT)
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[:4] == ["datasets", *REPOSITORY.split("/"), "resolve"]:
            self._file(REVISIONS[parts[4]], "/".join(parts[5:]))
        else:
            self._send(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(404)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _api(self, repository: str, asked: list[str]) -> None:
        if repository != REPOSITORY:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        commit = REVISIONS.get(asked[1] if asked else "main")
        if commit is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        if asked[:1] == ["tree"]:
            found = [_DATA] if asked[2:] == [_FOLDER] else [_README]
            entries = [_entry(name, _files(commit)[name]) for name in found]
            if asked[2:] != [_FOLDER]:
                entries.append({"type": "directory", "path": _FOLDER, "oid": "1" * 40})
            return self._send(200, body=json.dumps(entries).encode())
        names = [{"rfilename": name} for name in _files(commit)]
        info = {"id": REPOSITORY, "sha": commit, "siblings": names, "tags": []}
        self._send(200, body=json.dumps(info).encode())

    def _file(self, commit: str, name: str) -> None:
        content = _files(commit).get(name)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self._content(content, commit)

    def _content(self, content: bytes, commit: str) -> None:
        self._send(200, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit}, content)

    def _send(self, code: int, headers: dict[str, str] | None = None, body: bytes = b"{}") -> None:
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
