"""A stand-in for the Hugging Face hub on 127.0.0.1: the part of its HTTP interface that reading a data set uses.

It serves one folder as the data set `owner/name` at one commit. `requests` lists what was asked for.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import QuietHandler, listening

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class DataSetStandIn:
    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.requests: list[str] = []
        self.endpoint = ""

    def answer(self, path: str, wanted: list[str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; `wanted` are the paths that a POST asks about."""
        interface = f"/api/datasets/{self.name}"
        if path.startswith(f"/datasets/{self.name}/resolve/{COMMIT}/"):
            return self._file(path.split(f"/{COMMIT}/")[1])
        if path in (interface, f"{interface}/revision/{COMMIT}"):
            files = [{"rfilename": str(entry["path"])} for entry in self._entries("") if entry["type"] == "file"]
            return _json({"id": self.name, "sha": COMMIT, "siblings": files, "private": False, "tags": []})
        if path.startswith(f"{interface}/tree/{COMMIT}"):
            return _json(self._entries(path.removeprefix(f"{interface}/tree/{COMMIT}").strip("/")))
        if path == f"{interface}/paths-info/{COMMIT}":
            return _json([entry for entry in self._entries("") if entry["path"] in wanted])
        return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"

    def _entries(self, below: str) -> list[dict[str, object]]:
        return [
            {
                "type": "directory" if path.is_dir() else "file", "path": path.relative_to(self.folder).as_posix(),
                "oid": _etag(path), "size": path.stat().st_size if path.is_file() else 0,
            }
            for path in sorted((self.folder / below).rglob("*"))
        ]  # fmt: skip

    def _file(self, name: str) -> tuple[int, dict[str, str], bytes]:
        path = self.folder / name
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 200, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, path.read_bytes()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes() if path.is_file() else b"").hexdigest()


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _part(status: int, headers: dict[str, str], body: bytes, wanted: str) -> tuple[int, dict[str, str], bytes]:
    """The range of the body that a `Range: bytes=first-last` header asks for."""
    if status != 200 or not wanted.startswith("bytes="):
        return status, headers, body
    first, last = wanted.removeprefix("bytes=").split("-")
    end = min(int(last) + 1 if last else len(body), len(body))
    return 206, headers | {"Content-Range": f"bytes {first}-{end - 1}/{len(body)}"}, body[int(first) : end]


@contextmanager
def serving(hub: DataSetStandIn) -> Iterator[DataSetStandIn]:
    """Serve `hub` on a free port while the block runs."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            wanted = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent).get("paths", [])
            self.reply(*_part(*hub.answer(path, wanted), self.headers.get("Range", "")))

        do_HEAD = do_POST = do_GET  # noqa: N815

    with listening(Handler) as hub.endpoint:
        yield hub
