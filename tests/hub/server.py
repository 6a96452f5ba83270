"""A Hub on loopback: the part of the Hub's API that `huggingface_hub` calls to push and to pull, over real HTTP.

Repositories have branches of commits; large files are stored apart by their sha-256, as Git LFS does, and belong to a
repository only once a commit names them. Tokens have names and rights.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"
USERS = {WRITER: ("me", "write"), READER: ("me", "read"), STRANGER: ("else", "write")}
LARGE = (".safetensors", ".npz", ".mp4", ".webp", ".model", ".bin", ".pt")
NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"


class RefusedError(Exception):
    """An answer of the Hub that is no success; `more` is what it says beside the error."""

    def __init__(self, status: int, text: str, code: str = "", **more: Any) -> None:
        super().__init__(text)
        self.status, self.text, self.code, self.more = status, text, code, more


@dataclass
class Repo:
    """The files of every commit, by name: small ones as bytes, large ones as their sha-256."""

    commits: dict[str, dict[str, bytes | str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes | str]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes | str]]:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise RefusedError(404, f"no revision {revision}", "RevisionNotFound")
        return oid, self.commits[oid]


class LoopbackHub:
    """A running Hub; `asked` counts its answers, and `on_upload` is called before a large file is taken."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.on_upload: Callable[[int], Any] = lambda _: None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Small answers would otherwise wait for the acknowledgement of the one before.
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                hub.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 the names that http.server looks for

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Say nothing of clients that have gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        # Large files come from another host, which does not speak for a repository.
        self.elsewhere = self.url.replace("127.0.0.1", "localhost")
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The content of all files of a revision."""
        found = self.repos[repo].at(revision)[1]
        return {name: self.large[each] if isinstance(each, str) else each for name, each in found.items()}

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Make a repository as somebody else's program would have; return its commit."""
        return self.repos.setdefault(repo, Repo()).commit("main", dict(files))

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(request.path).path)
        method = "GET" if request.command == "HEAD" else request.command
        try:
            for pattern, (wanted, action) in ROUTES.items():
                if wanted == method and (match := re.fullmatch(pattern, path)):
                    self.asked[action.__name__] += 1
                    status, headers, answer = action(self, request, body, **match.groupdict())
                    break
            else:
                raise RefusedError(404, f"no such address: {path}")
        except RefusedError as refusal:
            status, answer = refusal.status, json.dumps({"error": refusal.text, **refusal.more}).encode()
            headers = {"X-Error-Message": refusal.text} | ({"X-Error-Code": refusal.code} if refusal.code else {})
        if not isinstance(answer, bytes):
            answer, headers = json.dumps(answer).encode(), {"Content-Type": "application/json", **headers}
        request.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(answer)

    def user(self, request: BaseHTTPRequestHandler) -> tuple[str, str]:
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in USERS:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return USERS[token]

    def require_writer(self, request: BaseHTTPRequestHandler, repo: str) -> None:
        name, role = self.user(request)
        if role != "write" or repo.split("/")[0] != name:
            raise RefusedError(403, "You don't have the required permissions to write here")

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return self.repos[name]


def whoami(hub, request, body):
    name, role = hub.user(request)
    return 200, {}, {"name": name, "type": "user", "orgs": [], "auth": {"accessToken": {"role": role}}}


def create_repo(hub, request, body):
    asked = json.loads(body)
    name = f"{asked['organization'] or hub.user(request)[0]}/{asked['name']}"
    hub.require_writer(request, name)
    if name in hub.repos:
        raise RefusedError(409, "You already created this model repo", url=f"{hub.url}/{name}")
    hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
    return 200, {}, {"url": f"{hub.url}/{name}", "name": name}


def create_branch(hub, request, body, repo, revision):
    hub.require_writer(request, repo)
    own = hub.repo(repo)
    if revision in own.branches:
        raise RefusedError(409, "Reference already exists")
    own.branches[revision] = own.branches["main"]
    return 200, {}, {}


def validate_yaml(hub, request, body):
    """Say what is wrong with a card, as far as the Hub's figures go."""
    errors = []
    try:
        said = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        for model in said.get("model-index", ()):
            for result in model["results"]:
                assert result["task"]["type"]
                assert result["dataset"]["type"]
                assert result["dataset"]["name"]
                assert all(isinstance(each["value"], int | float) and each["type"] for each in result["metrics"])
    except (yaml.YAMLError, IndexError, KeyError, AssertionError) as error:
        errors = [{"message": f"bad front matter: {error!r}"}]
    return (400 if errors else 200), {}, {"errors": errors, "warnings": []}


def info(hub, request, body, repo, revision="main"):
    oid, files = hub.repo(repo).at(revision)
    return 200, {}, {"id": repo, "sha": oid, "siblings": [{"rfilename": name} for name in files], "tags": []}


def tree(hub, request, body, repo, revision, path=""):
    found = []
    for name, content in hub.repo(repo).at(revision)[1].items():
        data = hub.large[content] if isinstance(content, str) else content
        entry = {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
        found.append(entry | ({"lfs": large_entry(content, data)} if isinstance(content, str) else {}))
    return 200, {}, found


def preupload(hub, request, body, repo, revision):
    hub.require_writer(request, repo)
    files = hub.repo(repo).at(revision)[1]
    modes = []
    for each in json.loads(body)["files"]:
        before = files.get(each["path"])
        oid = None if before is None else before if isinstance(before, str) else git_oid(before)
        mode = "lfs" if each["path"].endswith(LARGE) else "regular"
        modes.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return 200, {}, {"files": modes}


def batch(hub, request, body, repo):
    hub.require_writer(request, repo)
    objects = []
    for each in json.loads(body)["objects"]:
        actions = (
            {} if each["oid"] in hub.large else {"actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}}
        )
        objects.append({"oid": each["oid"], "size": each["size"], **actions})
    return 200, {}, {"transfer": "basic", "objects": objects}


def upload(hub, request, body, oid):
    hub.on_upload(hub.asked["upload"])
    if hashlib.sha256(body).hexdigest() != oid:
        raise RefusedError(400, "these bytes have another sha-256")
    hub.large[oid] = body
    return 200, {}, {}


def commit(hub, request, body, repo, revision):
    hub.require_writer(request, repo)
    own = hub.repo(repo)
    head, files = own.at(revision)
    files = dict(files)
    for line in map(json.loads, body.splitlines()):
        said = line["value"]
        if line["key"] == "header" and said.get("parentCommit") not in (None, head):
            raise RefusedError(412, "The expected parent commit is another one")
        if line["key"] == "file":
            files[said["path"]] = base64.b64decode(said["content"])
        elif line["key"] == "lfsFile":
            if len(hub.large.get(said["oid"], b"")) != said["size"]:
                raise RefusedError(400, f"{said['path']} was not uploaded")
            files[said["path"]] = said["oid"]
        elif line["key"] == "deletedFile":
            del files[said["path"]]
    oid = own.commit(revision, files)
    return 200, {}, {"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid}


def resolve(hub, request, body, repo, revision, path):
    oid, files = hub.repo(repo).at(revision)
    if path not in files:
        raise RefusedError(404, f"no {path}", "EntryNotFound")
    content, headers = files[path], {"X-Repo-Commit": oid}
    if isinstance(content, bytes):
        return 200, {**headers, "ETag": f'"{git_oid(content)}"'}, content
    size = str(len(hub.large[content]))
    linked = {"X-Linked-Size": size, "X-Linked-Etag": f'"{content}"', "Location": f"{hub.elsewhere}/large/{content}"}
    return 302, headers | linked, b""


def large(hub, request, body, oid):
    return 200, {"ETag": f'"{oid}"'}, hub.large[oid]


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def large_entry(oid: str, data: bytes) -> dict[str, Any]:
    return {"oid": oid, "size": len(data), "pointerSize": 130}


_AT = r"(?P<revision>[^/]+)"
ROUTES: dict[str, tuple[str, Callable[..., tuple[int, dict[str, str], Any]]]] = {
    r"/api/whoami-v2": ("GET", whoami),
    r"/api/repos/create": ("POST", create_repo),
    r"/api/validate-yaml": ("POST", validate_yaml),
    rf"/api/models/{NAME}/branch/{_AT}": ("POST", create_branch),
    rf"/api/models/{NAME}/preupload/{_AT}": ("POST", preupload),
    rf"/api/models/{NAME}/commit/{_AT}": ("POST", commit),
    rf"/api/models/{NAME}/tree/{_AT}": ("GET", tree),
    rf"/api/models/{NAME}/revision/{_AT}": ("GET", info),
    rf"/api/models/{NAME}": ("GET", info),
    rf"/{NAME}\.git/info/lfs/objects/batch": ("POST", batch),
    r"/large/(?P<oid>\w+)": ("PUT", upload),
    r"/large/(?P<oid>\w+)/?": ("GET", large),
    rf"/{NAME}/resolve/{_AT}/(?P<path>.+)": ("GET", resolve),
}
