"""A small Hub on localhost: the few endpoints that publishing a model uses, repositories in memory, failures on demand."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_secretsecretsecretsecretsecret"
FIRST = {".gitattributes": b"*.safetensors filter=lfs\n"}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool
    branches: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)  # name -> (commit, files)


class Hub(ThreadingHTTPServer):
    """`repositories` by name, `objects` by sha256; `fail[METHOD, regular expression of the path]` is a status to answer with.

    `log` holds "METHOD path" of every request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.lfs = True  # whether weights are kept apart, as the Hub does
        self.fail: dict[tuple[str, str], int] = {}
        self.log: list[str] = []
        self.commits = itertools.count(1)
        self.published: dict[str, list[list[str]]] = defaultdict(list)  # branch -> file names after each commit
        Thread(target=self.serve_forever, daemon=True).start()

    def commit(self, repository: Repository, branch: str, files: dict[str, bytes]) -> str:
        oid = f"{next(self.commits):040x}"
        repository.branches[branch] = (oid, files)
        self.published[branch].append(sorted(files))
        return oid


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, content: object = None, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        if status >= 400:
            self.send_header("X-Error-Message", f"status {status}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        for (method, pattern), status in self.server.fail.items():
            if method == self.command and re.search(pattern, path):
                return self.answer(status=status)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/objects/"):
            return self.answer(status=401)
        return self.route(path, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def route(self, path: str, body: bytes) -> None:
        hub = self.server
        if path.startswith("/objects/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/objects/")
            hub.objects[path.removeprefix("/objects/")] = body
            return self.answer()
        if path == "/api/validate-yaml":
            header = json.loads(body)["content"]
            return self.answer(
                {"errors": [], "warnings": []} if header.startswith("---\n") else {"errors": ["no header"]}
            )
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            known = name in hub.repositories
            if not known:
                hub.repositories[name] = Repository(
                    bool(wanted.get("private") or wanted.get("visibility") == "private")
                )
                hub.commit(hub.repositories[name], "main", dict(FIRST))
            return self.answer({"url": f"{hub.url}/{name}", "id": name}, 409 if known else 200)
        if match := re.fullmatch(r"/(.+?/.+?)\.git/info/lfs/objects/batch", path):
            return self.answer(
                {"transfer": "basic", "objects": [self.upload_target(part) for part in json.loads(body)["objects"]]}
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = hub.repositories[match[1]]
            return self.answer(repository.branches[match[2]][1][match[3]])
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path)
        if not match or match[1] not in hub.repositories:
            return self.answer(status=404)
        return self.repository(hub.repositories[match[1]], match[1], match[2], match[3], body)

    def upload_target(self, part: dict) -> dict:
        known = part["oid"] in self.server.objects
        actions = {"actions": {"upload": {"href": f"{self.server.url}/objects/{part['oid']}"}}}
        return {**part, **({} if known else actions)}

    def entries(self, files: dict[str, bytes]) -> list[dict]:
        result = []
        for name, content in files.items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
            if self.server.lfs and name.endswith((".safetensors", ".png")):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            result.append(entry)
        return result

    def repository(self, repository: Repository, name: str, verb: str | None, rest: str | None, body: bytes) -> None:
        hub = self.server
        if verb is None or verb == "revision":
            oid, files = repository.branches[rest or "main"]
            return self.answer(
                {
                    "id": name,
                    "sha": oid,
                    "private": repository.private,
                    "siblings": [{"rfilename": file} for file in files],
                }
            )
        if verb == "refs":
            heads = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid}
                for branch, (oid, _) in repository.branches.items()
            ]
            return self.answer({"branches": heads, "converts": [], "tags": []})
        assert rest
        if verb == "branch" and self.command == "DELETE":
            del repository.branches[rest]
            return self.answer()
        if verb == "branch":
            if rest in repository.branches:
                return self.answer(status=409)
            start = json.loads(body or b"{}").get("startingPoint", "main")
            hub.commit(repository, rest, dict(repository.branches[start][1]))
            return self.answer()
        files = repository.branches[rest][1]
        if verb == "tree":
            return self.answer(self.entries(files))
        if verb == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            return self.answer([entry for entry in self.entries(files) if entry["path"] in wanted])
        if verb == "preupload":
            return self.answer({"files": [self.mode(part["path"], files) for part in json.loads(body)["files"]]})
        assert verb == "commit"
        return self.commit(repository, name, rest, files, [json.loads(line) for line in body.splitlines()])

    def mode(self, path: str, files: dict[str, bytes]) -> dict:
        mode = "lfs" if self.server.lfs and path.endswith((".safetensors", ".png")) else "regular"
        oid = None
        if path in files:
            oid = hashlib.sha256(files[path]).hexdigest() if mode == "lfs" else blob_id(files[path])
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def commit(
        self, repository: Repository, name: str, branch: str, files: dict[str, bytes], operations: list[dict]
    ) -> None:
        parent = operations[0]["value"].get("parentCommit")
        if parent and parent != repository.branches[branch][0]:
            return self.answer(status=412)
        new = dict(files)
        for operation in operations[1:]:
            value = operation["value"]
            if operation["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                new[value["path"]] = self.server.objects[value["oid"]]
            else:
                del new[value["path"]]
        oid = self.server.commit(repository, branch, new)
        return self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})
