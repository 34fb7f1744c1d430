"""A hub on this machine, as huggingface_hub's client talks to it: just what is needed to read a model's facts."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin")


class Hub(BaseHTTPRequestHandler):
    """Serves the folder `root` as the model owner/name; owner/gated and owner/private answer with errors."""

    root: Path
    asked: list[tuple[str, str, str | None]]
    """Method, path and range of every request."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def files(self):
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.root).as_posix(), path.read_bytes()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        if "/owner/gated" in path:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted")
        elif "/owner/name" not in path:
            self.answer(401 if "private" in path else 404, X_Error_Code="RepoNotFound")
        elif path.startswith("/api/models/"):
            self.information(path)
        else:
            self.file(path.partition("/resolve/")[2].partition("/")[2])

    def information(self, path: str) -> None:
        revision = path.partition("/revision/")[2]
        if revision not in ("", "main", COMMIT):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        siblings = []
        for name, content in self.files():
            sibling = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        body = json.dumps(
            {"id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings, "tags": []}
        )
        self.answer(200, body.encode(), Content_Type="application/json")

    def file(self, name: str) -> None:
        content = dict(self.files()).get(name)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": COMMIT}
        requested = self.headers.get("Range")
        if requested:
            first, last = requested.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1]
            self.answer(
                206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}", **headers
            )
        else:
            self.answer(200, content, **headers)


def serve(root: Path) -> tuple[ThreadingHTTPServer, list]:
    """Return a server on a free port of this machine, and the list it notes its requests in."""
    asked: list = []
    handler = type("HubOfFolder", (Hub,), {"root": root, "asked": asked})
    return ThreadingHTTPServer(("127.0.0.1", 0), handler), asked
