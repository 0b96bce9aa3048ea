"""A local server that speaks the endpoints of the Hugging Face hub which downloads and uploads use."""

import base64
import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves one folder as the repository "owner/name"; a context manager.

    Attributes:
        url: for HF_ENDPOINT.
        fetched: how often the content of each file was asked for.
        sent: bytes of content sent.
        cut: path of a file whose connection breaks half-way, and how often that still happens.
        commit: of "main".
        refuse: HTTP status that answers everything instead.
        other: content that is sent instead of that of a file.
        tokens: what the Authorization headers said.
        large: suffixes of the files that are in the large file storage.
        created: what was asked for when the repository was made.
        lying: path of a file of which the list of files states another hash.
    """

    def __init__(self, folder: Path, name: str = "owner/name") -> None:
        self.folder, self.name = folder, name
        self.fetched: Counter[str] = Counter()
        self.sent = 0
        self.cut: dict[str, int] = {}
        self.refuse: int | None = None
        self.commit = COMMIT
        self.other: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.large = (".safetensors", ".bin", ".onnx", ".data", ".png", ".model")
        self.created: dict = {}
        self.lying: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def do_POST(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.tokens.add(self.headers.get("Authorization"))
        content = self._content()
        if hub.refuse:
            return self._json({"error": "refused"}, hub.refuse)
        if path == "/api/repos/create":
            hub.created = json.loads(content)
            return self._json({"url": f"{hub.url}/{hub.name}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith(f"/api/models/{hub.name}/preupload/"):
            files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(content)["files"]]
            return self._json(
                {"files": [{**f, "uploadMode": "lfs" if self._is_large(f["path"]) else "regular"} for f in files]}
            )
        if path == f"/{hub.name}.git/info/lfs/objects/batch":
            objects = json.loads(content)["objects"]
            places = [{**o, "actions": {"upload": {"href": f"{hub.url}/storage/{o['oid']}"}}} for o in objects]
            return self._json({"transfer": "basic", "objects": places})
        if path.startswith(f"/api/models/{hub.name}/commit/"):
            return self._commit([json.loads(line) for line in content.splitlines()])
        return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self):
        content = self._content()
        self.server.hub.other[unquote(urlsplit(self.path).path)] = content
        self._json({})

    def _content(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):  # chunked
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _is_large(self, name):
        return name.endswith(self.server.hub.large)

    def _commit(self, lines):
        """Files of a commit: small ones in it, large ones that were uploaded before, by hash."""
        hub = self.server.hub
        for line in lines:
            value, kind = line["value"], line["key"]
            if kind == "header":
                continue
            stored = (
                hub.other.get(f"/storage/{value['oid']}") if kind == "lfsFile" else base64.b64decode(value["content"])
            )
            assert kind == "file" or hashlib.sha256(stored).hexdigest() == value["oid"]
            (hub.folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (hub.folder / value["path"]).write_bytes(stored)
        self._json(
            {"commitUrl": f"{hub.url}/{hub.name}/commit/{hub.commit}", "commitOid": hub.commit, "pullRequestUrl": None}
        )

    def _answer(self, head):
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuse:
            return self._json({"error": "refused"}, hub.refuse)
        if path.startswith(f"/api/models/{hub.name}"):
            return self._describe(path.removeprefix(f"/api/models/{hub.name}"))
        prefix = f"/{hub.name}/resolve/"
        if path.startswith(prefix):
            return self._file(path.removeprefix(prefix).split("/", 1)[1], head)
        return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _describe(self, rest):
        hub = self.server.hub
        revision = rest.split("/")[2] if rest.count("/") >= 2 else "main"
        if revision not in ("main", hub.commit):
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if rest.startswith("/tree/"):
            return self._json([self._entry(name) for name in hub.files()])
        siblings = [{"rfilename": name} for name in hub.files()]
        return self._json({"id": hub.name, "modelId": hub.name, "sha": hub.commit, "siblings": siblings})

    def _entry(self, name):
        """A file as the list of a commit describes it, with git's hash or that of the large file storage."""
        content = (self.server.hub.folder / name).read_bytes()
        stated = content + b"!" if name == self.server.hub.lying else content
        git = hashlib.sha1(b"blob %d\0" % len(stated) + stated).hexdigest()
        entry = {"type": "file", "path": name, "size": len(content), "oid": git}
        if self._is_large(name):
            entry["lfs"] = {"oid": hashlib.sha256(stated).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _file(self, name, head):
        hub = self.server.hub
        content = hub.other.get(name) or (hub.folder / name).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if head:
            return
        hub.fetched[name] += 1
        end = len(content)
        if hub.cut.get(name, 0) > 0:
            hub.cut[name] -= 1
            end = start + (end - start) // 2
            self.close_connection = True
        self.wfile.write(content[start:end])
        hub.sent += end - start

    def _json(self, body, status=200, headers=None):
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
