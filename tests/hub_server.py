"""A hub of the tests' own: what the Hugging Face hub's client asks and sends, for one repository."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_planted-token"


class Hub:
    """Commits of the repository owner/name, served and taken as huggingface.co does it.

    `asked` are the paths, in order. What is sent comes into a folder below `uploads`, from whoever has TOKEN.
    """

    def __init__(self, commits: dict[str, Path], uploads: Path | None = None) -> None:
        self.commits, self.asked, self.uploads = commits, list[str](), uploads
        self.created: list[dict[str, Any]] = []
        self.branches = {"main": next(iter(commits), "")}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                if self.path == "/":  # whether the hub is there
                    return self.refuse("")
                hub.asked.append(self.path)
                _, owner, name, _, revision, *parts = self.path.split("/")
                commit = hub.branches.get(revision, revision)
                file = hub.commits.get(commit, Path("/none")).joinpath(*parts)
                if (owner, name) != ("owner", "name"):
                    return self.refuse("RepoNotFound")
                if commit not in hub.commits:
                    return self.refuse("RevisionNotFound")
                if not file.is_file():
                    return self.refuse("EntryNotFound", commit)
                content = file.read_bytes()
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.reply({"error": "Invalid user token."}, 401)
                *_, action, revision = self.path.split("/")
                if self.path == "/api/repos/create":
                    hub.created.append(json.loads(content))
                    return self.reply({"url": f"{hub.address}/owner/name"})
                if action == "preupload":
                    files = [{"path": one["path"]} for one in json.loads(content)["files"]]
                    modes = [one | {"uploadMode": "regular", "shouldIgnore": False} for one in files]
                    return self.reply({"files": modes})
                if action == "commit":
                    return self.commit(revision, [json.loads(line) for line in content.splitlines()])
                hub.branches.setdefault(revision, "")
                return self.reply({"errors": [], "warnings": []})  # of a new branch, or of a card

            def commit(self, branch: str, lines: list[dict[str, Any]]) -> None:
                assert hub.uploads is not None
                oid = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
                for line in lines:
                    if line["key"] == "file":
                        file = hub.uploads / oid / line["value"]["path"]
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(base64.b64decode(line["value"]["content"]))
                hub.commits[oid] = hub.uploads / oid
                hub.branches[branch] = oid
                self.reply({"commitUrl": f"{hub.address}/owner/name/commit/{oid}", "commitOid": oid, "hookOutput": ""})

            def reply(self, answer: dict[str, Any], status: int = 200) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def refuse(self, code: str, commit: str = "") -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
