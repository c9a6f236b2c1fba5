"""A stand-in for the Hugging Face hub on 127.0.0.1: the part of its HTTP interface that downloads and uploads use.

It serves folders as repositories `owner/name`: a commit with its list of files, and each file with the ETag and
commit headers that `huggingface_hub` builds its cache from. With a `store` it takes uploads as `huggingface_hub` 2.4
speaks them without xet: create the repository, have the card's header checked, ask how each file is to be sent
(preupload), send large ones by Git LFS, and commit.
`requests` lists what was asked for.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import QuietHandler, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Answer = tuple[int, dict[str, str], bytes]


class HubStandIn:
    """`gated` names repositories whose terms nobody has accepted; `store` is where pushed repositories go.

    `token` may write to repositories of `owner`; `lfs_broken` answers 500 to every large file.
    """

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = (), store: Path | None = None) -> None:
        self.repositories = repositories
        self.gated = gated
        self.store = store
        self.token, self.owner = "hf_right", "me"
        self.lfs_broken = False
        self.created: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.endpoint = ""

    def answer(self, path: str) -> Answer:
        """Status, headers and body of a GET."""
        parts = path.strip("/").split("/")
        interface = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if interface else parts[:2])
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept the terms first"}, b"{}"
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        folder = self.repositories[name]
        if interface:
            return _json(_described(name, folder, parts))
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        data = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, data

    def take(self, method: str, path: str, authorization: str | None, body: bytes) -> Answer:
        """Status, headers and body of a POST or PUT: an upload's steps."""
        parts = path.strip("/").split("/")
        if parts[0] == "lfs" and method == "PUT":  # the address itself is the permission
            return self._take_object(parts[1], body)
        if authorization != f"Bearer {self.token}":
            return 401, {"X-Error-Message": "Invalid username or password."}, b"{}"
        return self._interface(path, parts, body)

    def _interface(self, path: str, parts: list[str], body: bytes) -> Answer:
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            header = json.loads(body)["content"].startswith("---\n")
            return _json({"errors": [] if header else [{"message": "no header"}], "warnings": []})
        if parts[-2:] == ["preupload", "main"]:
            files = [{"path": each["path"], **_how_to_send(each["path"])} for each in json.loads(body)["files"]]
            return _json({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            return _json({"transfer": "basic", "objects": [self._place(each) for each in json.loads(body)["objects"]]})
        if parts[-2:] == ["commit", "main"]:
            return self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])
        return 404, {}, b"{}"

    def _create(self, asked: dict[str, Any]) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != self.owner:
            return 403, {"X-Error-Message": f"no rights to create a model under {asked['organization']}"}, b"{}"
        status, headers, body = _json({"url": f"{self.endpoint}/{name}", "name": name})
        if name in self.created:
            return 409, headers | {"X-Error-Message": "You already created this model repo"}, body
        self.created[name] = asked
        return status, headers, body

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.endpoint}/lfs/{asked['oid']}", "header": {}}
        return {"oid": asked["oid"], "size": asked["size"], "authenticated": True, "actions": {"upload": upload}}

    def _take_object(self, oid: str, body: bytes) -> Answer:
        if self.lfs_broken or hashlib.sha256(body).hexdigest() != oid:
            return 400, {"X-Error-Message": "the storage is full"}, b"{}"
        self.objects[oid] = body
        return 200, {}, b""

    def _commit(self, name: str, rows: list[dict[str, Any]]) -> Answer:
        assert self.store is not None
        folder = self.store / name
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            value = row["value"]
            if row["key"] == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif row["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(self.objects[value["oid"]])
        self.repositories[name] = folder
        page = f"{self.endpoint}/{name}/commit/{COMMIT}"
        return _json({"success": True, "commitOid": COMMIT, "commitUrl": page, "hookOutput": ""})


def _how_to_send(path: str) -> dict[str, Any]:
    return {"uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}


def _json(value: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _described(name: str, folder: Path, parts: list[str]) -> object:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if "tree" in parts:
        return [{"type": "file", "path": file, "oid": file, "size": (folder / file).stat().st_size} for file in files]
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}


@contextmanager
def serving(hub: HubStandIn) -> Iterator[HubStandIn]:
    """Serve `hub` on a free port while the block runs."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.reply(*hub.answer(self._path()))

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(*hub.take(self.command, self._path(), self.headers.get("Authorization"), body))

        do_HEAD = do_GET  # noqa: N815
        do_PUT = do_POST  # noqa: N815

        def _path(self) -> str:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            return path

    with listening(Handler) as hub.endpoint:
        yield hub
