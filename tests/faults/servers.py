"""Local servers that stand in for those of the network and fail on request."""

import contextlib
import hashlib
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GONE = 0  # a status: close the connection without an answer


class Handler(BaseHTTPRequestHandler):
    """Answers with what the server's `answer(method, path, body, headers)` returns: a status, headers and a body."""

    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = self.server.answer(self.command, self.path, body, self.headers)
        if status == GONE:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(answer))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)
        self.close_connection |= len(answer) < int(headers.get("Content-Length", 0))  # cut in the middle

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def log_message(self, *words) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers every request with one status."""

    daemon_threads = True

    def __init__(self, status: int = 200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, body: bytes, headers) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(f"{method} {path}")
        return self.status, {}, b"{}"

    def handle_error(self, request, address) -> None:
        """A client that went away is not an error here."""


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


class Wandb(Server):
    """As much of W&B's server as a run needs, until `status` is set to something else than 200.

    Attributes:
        lines: of each run's history, by their place in it: a part that begins again at 0 overwrites what was there.
        runs: what was said last of each run's settings and summary.
    """

    def __init__(self, status: int = 200):
        super().__init__(status)
        self.lines: dict[str, dict[int, dict]] = {}
        self.runs: dict[str, dict] = {}

    def answer(self, method, path, body, headers):
        request = json.loads(body) if body.startswith(b"{") else {}
        query, variables = request.get("query", ""), request.get("variables", {})
        self.asked.append(f"{method} {path} {query.partition('(')[0].strip()[:60]}")
        if self.status != 200:
            return self.status, {}, b"{}"
        if "file_stream" in path:
            self.keep(path.split("/")[-2], request.get("files") or {})
        name = variables.get("name")
        if "UpsertBucket" in query:
            self.runs.setdefault(name, {}).update({k: v for k, v in variables.items() if v is not None})
        answers = {
            "UpsertBucket": {"upsertBucket": {"bucket": self.bucket(name), "inserted": name not in self.lines}},
            "Viewer": {
                "viewer": {"id": "VXNl", "entity": "entity", "username": "user", "flags": "{}", "teams": {"edges": []}}
            },
            "RunResumeStatus": {"model": {"bucket": self.bucket(name)} if name in self.lines else None},
            "ServerFeatures": {"serverInfo": {"features": []}},
            "CreateRunFiles": {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": []}},
        }
        data = next((answer for name, answer in answers.items() if name in query), {})
        return 200, {"Content-Type": "application/json"}, json.dumps({"data": data}).encode()

    def keep(self, run: str, files: dict) -> None:
        """Keeps the history and the summary that a run sends."""
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(history["content"], history["offset"]):
            self.lines.setdefault(run, {})[place] = json.loads(line)
        if summary := files.get("wandb-summary.json", {}).get("content"):
            self.runs.setdefault(run, {})["summary"] = json.loads(summary[-1])

    def bucket(self, run: str | None) -> dict:
        """What is known of a run."""
        lines, summary = self.lines.get(run or "", {}), self.runs.get(run or "", {}).get("summary", {})
        return {
            **{"id": "UnVu", "name": run, "displayName": "run", "sweepName": None, "config": "{}", "tags": []},
            **{"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"},
            **{"historyTail": json.dumps([json.dumps(lines[max(lines)])] if lines else [])},
            **{"summaryMetrics": json.dumps(summary), "wandbConfig": '{"t": 1}'},
            "project": {"id": "UHJv", "name": "project", "entity": {"id": "RW50", "name": "entity"}},
        }


class Hub(Server):
    """As much of the Hugging Face hub as a download needs: files of folders, each a repository at any revision.

    Attributes:
        broken: the end of a file's name, of which every answer stops after half of what was asked for.
        flipped: the end of a file's name, of which one bit is wrong.
    """

    def __init__(self, folders: dict[str, Path]):
        super().__init__()
        self.folders, self.broken, self.flipped = folders, None, None

    def answer(self, method, path, body, headers):
        self.asked.append(f"{method} {path}")
        if self.status != 200:
            return self.status, {"X-Error-Code": "RepoNotFound"} if self.status == 404 else {}, b"{}"
        for name, folder in self.folders.items():
            kind = "datasets/" if name.startswith("datasets/") else "models/"
            if path.startswith(f"/api/{kind}{name.removeprefix('datasets/')}/tree/"):
                files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                return (
                    200,
                    {"Content-Type": "application/json"},
                    json.dumps([_entry(folder, f) for f in files]).encode(),
                )
            if path.startswith(f"/{name}/resolve/"):
                revision, _, file = path.removeprefix(f"/{name}/resolve/").partition("/")
                return self.file(folder / urllib.parse.unquote(file), revision, headers.get("Range"))
        return (200 if path == "/" else 404), {}, b"{}"

    def file(self, file: Path, revision: str, part: str | None):
        content = bytearray(file.read_bytes())
        if self.flipped and file.name.endswith(self.flipped):
            content[-100] ^= 1
        begin = int(part.removeprefix("bytes=").partition("-")[0]) if part else 0
        whole = bytes(content[begin:])
        sent = whole[: len(whole) // 2] if self.broken and file.name.endswith(self.broken) else whole
        told = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": revision, "Content-Length": str(len(whole))}
        if part:
            told["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return (206 if part else 200), told, sent


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _entry(folder: Path, file: Path) -> dict:
    large = {"oid": _digest(file), "size": file.stat().st_size, "pointerSize": 130}
    return {
        "type": "file",
        "path": str(file.relative_to(folder)),
        "size": file.stat().st_size,
        "oid": _digest(file),
        "lfs": large if file.suffix in (".safetensors", ".parquet") else None,
    }
