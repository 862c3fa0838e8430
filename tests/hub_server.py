"""A small server in the place of the hub: data sets with revisions, as huggingface_hub asks for them; files
go in small, never as LFS."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.commits: list[list[str]] = []
        """Paths of each commit."""
        self.fails_after: int | None = None
        """Commits after which no more are taken."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        versions = self.repos[repo]
        number = (
            len(versions) - 1
            if revision == "main"
            else int(revision, 16)
            if len(revision) == 40
            else -1
        )
        return versions[number] if 0 <= number < len(versions) else None


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "datasets"]:
            self._describe("/".join(parts[2:4]), *parts[4:6])
        elif "resolve" in parts:
            self._resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self._answer(404, {})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            status = 409 if name in self.server.repos else 200
            self.server.repos.setdefault(name, [{".gitattributes": b"*.bin filter=lfs\n"}])
            self._answer(status, {"url": f"{self.server.url}/datasets/{name}"})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif parts[4] == "commit":
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        if (
            self.server.fails_after is not None
            and len(self.server.commits) >= self.server.fails_after
        ):
            self._answer(403, {"error": "no more"})
            return
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        self.server.commits.append(sorted(files))
        versions = self.server.repos[repo]
        versions.append({**versions[-1], **files})
        sha = f"{len(versions) - 1:040x}"
        self._answer(
            200,
            {
                "commitOid": sha,
                "commitUrl": f"{self.server.url}/datasets/{repo}/commit/{sha}",
                "success": True,
            },
        )

    def _describe(self, repo: str, verb: str = "revision", revision: str = "main") -> None:
        files = self.server.files(repo, revision) if repo in self.server.repos else None
        if files is None:
            what = "RepoNotFound" if repo not in self.server.repos else "RevisionNotFound"
            self._answer(404, {}, {"X-Error-Code": what})
        elif verb == "tree":
            self._answer(
                200,
                [
                    {"type": "file", "path": key, "size": len(data), "oid": _blob(data)}
                    for key, data in files.items()
                ],
            )
        else:
            number = len(self.server.repos[repo]) - 1 if revision == "main" else int(revision, 16)
            self._answer(
                200,
                {"id": repo, "sha": f"{number:040x}", "private": False, "tags": [], "siblings": []},
            )

    def _resolve(self, repo: str, revision: str, key: str) -> None:
        data = (self.server.files(repo, revision) or {}).get(key)
        if data is None:
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(200, data, {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": revision})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response_only(status)
        for name, value in {
            "Content-Type": "application/json",
            **(headers or {}),
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
