"""A Hugging Face Hub in memory, for tests: the real clients speak to it over HTTP on 127.0.0.1.

    with Hub() as hub:
        hub.add_user("ann", "hf_ann", orgs=("lab",))
        subprocess.run(command, env=hub.env(home, "hf_ann"), check=True)
        assert "config.json" in hub.files("ann/model")

Status codes, headers and messages are those the clients look for and people report; storage is at
another host name (localhost), as on the real Hub, so that clients keep their token from it.
"""

import base64
import hashlib
import json
import math
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
from helpers.hub_cards import SDKS, TASKS, check_card, read_metadata
from helpers.hub_repo import (
    GIT_ATTRIBUTES,
    SPACE_CARD,
    Commit,
    File,
    Refused,
    Repo,
    apply,
    is_lfs,
    sha1,
)

NOT_LOGGED_IN, NOT_FOUND = (401, "Invalid username or password."), "RepoNotFound"


class Answer(NamedTuple):
    status: int | None
    headers: dict[str, str]
    content: bytes


CUT = Answer(None, {}, b"")


def answer(content, status=200, headers=()) -> Answer:
    headers = {"Content-Type": "application/json", **dict(headers)}
    return Answer(status, headers, json.dumps(content, default=str).encode())


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@dataclass
class User:
    """Whom a token stands for; the role, and a fine-grained one's scope, say what it may do."""

    name: str
    orgs: dict[str, str]  # name → role in it: read, contributor, write or admin
    role: str  # of the token: read, write or fineGrained
    scope: tuple[str, ...]  # fineGrained: the namespaces and repositories it is for
    pro: bool

    def belongs_to(self, repo_id: str) -> bool:
        namespace = repo_id.split("/")[0]
        inside = self.role != "fineGrained" or bool({namespace, repo_id} & set(self.scope))
        return inside and (namespace == self.name or namespace in self.orgs)

    def may_write(self, repo_id: str) -> bool:
        guest = self.orgs.get(repo_id.split("/")[0]) == "read"
        return self.role != "read" and self.belongs_to(repo_id) and not guest


@dataclass
class Fault:
    """What happens instead of an answer: the connection is cut (no status), or an error."""

    n: int
    times: int
    on: str
    after: bool
    status: int | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def strikes(self, line: str) -> bool:
        if not re.search(self.on, line):
            return False
        self.n -= 1
        return -self.times < self.n <= 0

    @property
    def answer(self) -> Answer:
        if self.status is None:
            return CUT
        if self.status in (502, 503, 504):  # a gateway's, not the Hub's
            page = f"<html><h1>{self.message}</h1></html>".encode()
            return Answer(self.status, {"Content-Type": "text/html"} | self.headers, page)
        return answer({"error": self.message}, self.status, self.headers)


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    user: User | None = None
    repo: Repo | None = None
    rev: str = "main"
    name: str = ""  # a path in the repository, or an LFS object's SHA-256
    part: str = ""

    @property
    def json(self):
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


REPO = r"/api/(?P<type>model|dataset|space)s/(?P<id>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<type>dataset|space)s/)?(?P<id>[^/]+/[^/]+)"
REV, OID = "/(?P<rev>[^/]+)", "/(?P<name>[0-9a-f]{64})"
ROUTES = (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", "/api/repos/create", "create"),
    ("GET", f"{REPO}(?:/revision{REV})?", "info"),
    ("GET", f"{REPO}/tree{REV}(?:/(?P<name>.+))?", "tree"),
    ("POST", f"{REPO}/paths-info{REV}", "paths_info"),
    ("GET", f"{REPO}/commits{REV}", "history"),
    ("GET", f"{REPO}/refs", "refs"),
    ("POST", f"{REPO}/(?P<part>branch|tag){REV}", "ref"),
    ("POST", f"{REPO}/preupload{REV}", "preupload"),
    ("POST", f"{REPO}/commit{REV}", "commit"),
    ("GET|HEAD", f"{PAGE}/resolve{REV}/(?P<name>.+)", "resolve"),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/verify", "lfs_verify"),
    (
        "GET|HEAD|PUT|POST",
        rf"/lfs/(?P<type>\w+)s/(?P<id>[^/]+/[^/]+){OID}(?:/(?P<part>\w+))?",
        "storage",
    ),
)


class Hub:
    """The server; `with Hub() as hub:` starts it in a thread.

    `url`: its address. `repos`: {(type, id): Repo}. `requests`: (method, path, status) of each
    request in order, status None where the connection was cut. `multipart_from`: bytes from which
    LFS files are uploaded in parts of that size. `page`: entries a page of a listing. `down`: every
    connection is cut while this is true. `private_by_default`: namespaces that make repositories
    private. `delay`: seconds before each answer.
    """

    def __init__(self):
        self.users: dict[str, User] = {}  # by token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str, int | None]] = []
        self.multipart_from = 5_000_000
        self.page = 1000
        self.down = False
        self.private_by_default: set[str] = set()  # namespaces
        self.delay = 0.0  # seconds before each answer
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.secret = os.urandom(8).hex()

    def __enter__(self) -> "Hub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage_url = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.down = True  # connections kept alive end as well
        self.server.shutdown()
        self.server.server_close()

    # What tests arrange and look at

    def add_user(self, name, token, orgs=(), role="write", scope=(), pro=True) -> None:
        """Let `token` stand for user `name`; call again for a second token of the same user.

        `orgs`: organizations it belongs to, or {organization: read | contributor | write | admin}.
        `role`: read, write or fineGrained; the last may write only in `scope` (namespaces, ids).
        `pro`: pays, and so may create Spaces that run on compute.
        """
        roles = orgs if isinstance(orgs, dict) else dict.fromkeys(orgs, "write")
        self.users[token] = User(name, roles, role, tuple(scope), pro)

    def add_repo(
        self, repo_id, files=(), repo_type="model", private=False, sdk=None, gated=False
    ) -> Repo:
        """Make a repository as the Hub does, then commit `files` ({path: bytes}), if any."""
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private, sdk, gated)
        first = {".gitattributes": File(GIT_ATTRIBUTES.encode())}
        if repo_type == "space":
            first["README.md"] = File(SPACE_CARD.format(repo_id.split("/")[1], sdk).encode())
        repo.commit("main", first, "initial commit")
        if files:
            added = {p: File(d, is_lfs(first, p, len(d), d)) for p, d in dict(files).items()}
            repo.objects |= {file.sha256: file.data for file in added.values() if file.lfs}
            repo.commit("main", first | added, "files", author=repo_id.split("/")[0])
        return repo

    def files(self, repo_id, repo_type="model", revision="main") -> dict[str, bytes]:
        """{path: content} of a revision: a branch, a tag or a commit id."""
        commit = self.repos[repo_type, repo_id].at(revision)
        return {path: file.data for path, file in sorted(commit.files.items())}

    def commits(self, repo_id, repo_type="model", revision="main") -> list[Commit]:
        """The history of a revision, newest first."""
        repo = self.repos[repo_type, repo_id]
        found = [repo.at(revision)]
        while found[-1].parent:
            found.append(repo.commits[found[-1].parent])
        return found

    def cut(self, n=1, after=False, times=1, on="") -> None:
        """Cut the connection of the n-th request from now, and of the `times` - 1 after it.

        `after`: not before it is handled, but before the first byte of its answer. `on`: count only
        requests whose "METHOD /path" this regular expression finds.
        """
        self.faults.append(Fault(n, times, on, after))

    def fail(self, n=1, status=500, message="", times=1, on="", after=False, headers=()) -> None:
        """Answer like `cut`, with an error; 502, 503 and 504 come from a gateway, as HTML."""
        message = message or HTTPStatus(status).phrase
        self.faults.append(Fault(n, times, on, after, status, message, dict(headers)))

    def env(self, home, token: str | None = None) -> dict[str, str]:
        """The environment of a client process with the caches of folder `home`."""
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            and not name.lower().endswith("_proxy")
        }
        mine |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        mine |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
        mine |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        return mine | ({"HF_TOKEN": token} if token else {})

    def connect(self, monkeypatch, home) -> None:
        """Bring the clients of this process here, with caches in `home`, and waiting for nothing.

        They read the environment at import, so their constants are changed, until `monkeypatch` is
        undone. HF_TOKEN is unset: set it through `monkeypatch` where a test needs it.
        """
        import datasets.config
        import huggingface_hub.file_download
        import huggingface_hub.hf_api
        from huggingface_hub import HfFileSystem, close_session, constants
        from huggingface_hub.utils import _http

        home = str(home)
        changes = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_CACHE": os.path.join(home, "hub"),
            "HF_ASSETS_CACHE": os.path.join(home, "assets"),
            "HF_TOKEN_PATH": os.path.join(home, "token"),
            "HF_STORED_TOKENS_PATH": os.path.join(home, "stored_tokens"),
        }
        for name, value in changes.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.url)
        pages = self.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        changes = {"HF_ENDPOINT": self.url, "HUB_DATASETS_URL": pages, "HF_HUB_OFFLINE": False}
        changes["HF_DATASETS_CACHE"] = os.path.join(home, "datasets")
        for name, value in changes.items():
            monkeypatch.setattr(datasets.config, name, value)
        impatient = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
        for module in (_http, huggingface_hub.file_download):
            monkeypatch.setattr(module, "time", impatient)
        for name in os.environ:
            if name.lower().endswith("_proxy") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
                monkeypatch.delenv(name)
        HfFileSystem.clear_instance_cache()
        close_session()

    # Answering a request

    def respond(self, request: Request) -> Answer:
        """The answer, or what a fault makes of it; its status is None where the connection ends."""
        line = f"{request.method} {request.path}"
        struck = [fault for fault in self.faults if fault.strikes(line)]
        if self.down:
            return CUT
        if struck and not struck[0].after:
            return struck[0].answer
        served = self.serve(request)
        return struck[0].answer if struck else served

    def serve(self, request: Request) -> Answer:
        try:
            return self.handler_of(request)(request)
        except Refused as e:
            line = " ".join(str(e).split()).encode("ascii", "replace").decode()
            headers = {"X-Error-Message": line} | ({"X-Error-Code": e.code} if e.code else {})
            if e.code == "EntryNotFound":
                headers["X-Repo-Commit"] = request.repo.at(request.rev).oid
            return answer({"error": str(e)} | e.body, e.status, headers)
        except (KeyError, TypeError, ValueError) as e:
            return answer({"error": f"Malformed request: {e!r}"}, 400)

    def handler_of(self, request):
        for methods, pattern, name in ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and request.method in methods.split("|"):
                self.fill(request, found, signed=name == "storage")
                return getattr(self, name)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def fill(self, request, found, signed) -> None:
        """Add the user, the repository and the rest of the address to a request."""
        groups = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
        kind, repo_id = groups.pop("type", "model"), groups.pop("id", None)
        for name, value in groups.items():
            setattr(request, name, value)
        if signed:  # whoever has the address
            request.repo = self.repos.get((kind, repo_id))
            return
        request.user = self.user_of(request)
        if repo_id:
            request.repo = self.readable(kind, repo_id, request.user)

    def user_of(self, request) -> User | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.users.get(token)

    def readable(self, kind, repo_id, user) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not (user and user.belongs_to(repo_id))):
            # The clients read a 401 without this code as a missing repository over https alone.
            raise Refused(*((404, "Repository not found") if user else NOT_LOGGED_IN), NOT_FOUND)
        return repo

    def check_write(self, request) -> None:
        user = request.user
        if user is None:
            raise Refused(*NOT_LOGGED_IN, NOT_FOUND)
        if user.role == "read":
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        if not user.may_write(request.repo.id):
            way = "pass `create_pr=1` as a query parameter to create a Pull Request"
            raise Refused(403, f"Forbidden: {way}")

    def page_of(self, kind, repo_id) -> str:
        return self.url + ("/" if kind == "model" else f"/{kind}s/") + repo_id

    # Accounts and repositories

    def whoami(self, request):
        user = request.user
        if user is None:
            raise Refused(*NOT_LOGGED_IN)
        orgs = [{"type": "org", "name": n, "roleInOrg": r} for n, r in user.orgs.items()]
        token = {"displayName": "test", "role": user.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        if user.role == "fineGrained":
            rights = ["repo.content.read", "repo.write"]
            scoped = [{"entity": {"name": s}, "permissions": rights} for s in user.scope]
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
        auth = {"type": "access_token", "accessToken": token}
        person = {"type": "user", "id": sha1(user.name)[:24], "name": user.name, "isPro": user.pro}
        return answer(person | {"fullname": user.name.title(), "orgs": orgs, "auth": auth})

    def validate_yaml(self, request):
        errors, warnings = check_card(request.json["content"], request.json["repoType"])
        found = {"errors": errors, "warnings": warnings}
        messages = {name: [{"message": m} for m in found[name]] for name in found}
        return answer(messages, 400 if errors else 200)

    def create(self, request):
        asked, user = request.json, request.user
        if user is None:
            raise Refused(*NOT_LOGGED_IN)
        kind, name, sdk = asked.get("type") or "model", asked["name"], asked.get("sdk")
        namespace = asked.get("organization") or user.name
        repo_id = f"{namespace}/{name}"
        if not re.fullmatch(r"(?!.*(?:--|\.\.))\w[\w.-]{0,95}(?<![.-])(?<!\.git)", name):
            raise Refused(400, f"Invalid repo name: {name}")
        if not user.may_write(repo_id):
            right = f"the rights to create a {kind} under the namespace"
            raise Refused(403, f'You don\'t have {right} "{namespace}"')
        if (kind, repo_id) in self.repos:
            page = self.page_of(kind, repo_id)
            raise Refused(409, f"You already created this {kind} repo", url=page)
        if kind == "space" and sdk not in SDKS:
            raise Refused(400, f'"sdk" must be one of [{", ".join(SDKS)}]')
        if kind == "space" and sdk != "static" and not user.pro:
            raise Refused(402, "Payment required: a Space that runs on compute needs PRO")
        default = "private" if namespace in self.private_by_default else "public"
        private = asked.get("visibility", default) == "private" or bool(asked.get("private"))
        self.add_repo(repo_id, {}, kind, private, sdk)
        return answer({"url": self.page_of(kind, repo_id), "name": repo_id, "private": private})

    def refs(self, request):
        def listed(kind, refs):
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in refs.items()
            ]

        heads, tags = request.repo.branches, request.repo.tags
        lists = {"branches": listed("heads", heads), "tags": listed("tags", tags)}
        return answer(lists | {"converts": [], "pullRequests": []})

    def ref(self, request):
        """Make a branch, named in the address, or a tag, named in the body."""
        self.check_write(request)
        repo, name, tag = request.repo, request.rev, request.part == "tag"
        refs = repo.tags if tag else repo.branches
        start = request.rev if tag else request.json.get("startingPoint", "main")
        name = request.json["tag"] if tag else name
        if name in refs:
            raise Refused(409, f"Reference already exists: {name}")
        refs[name] = repo.at(start).oid
        return answer({})

    # Reading

    def info(self, request):
        repo, head = request.repo, request.repo.at(request.rev)
        card = read_metadata(head.files.get("README.md", File(b"")).data.decode())[0]
        card = card if isinstance(card, dict) else {}
        siblings = []
        for path, file in sorted(head.files.items()):
            entry = {"rfilename": path}
            if request.flag("blobs"):
                entry |= {"size": len(file.data), "blobId": file.oid}
                entry |= {"lfs": file.lfs_info("sha256")} if file.lfs else {}
            siblings.append(entry)
        tags = [str(tag) for tag in card.get("tags") or []]
        found = {"_id": sha1(repo.id)[:24], "id": repo.id, "author": repo.id.split("/")[0]}
        found |= {"sha": head.oid, "lastModified": head.date, "private": repo.private}
        first = next(iter(repo.commits.values()))
        found |= {"createdAt": first.date, "gated": "auto" if repo.gated else False}
        found |= {"disabled": False, "downloads": 0, "likes": 0, "tags": tags, "cardData": card}
        found |= {"siblings": siblings, "usedStorage": sum(map(len, repo.objects.values()))}
        if repo.type == "model":
            task = next((tag for tag in tags if tag in TASKS), None)
            found |= {"modelId": repo.id, "library_name": card.get("library_name")}
            found |= {"pipeline_tag": card.get("pipeline_tag", task)}
            found |= {"model-index": card.get("model-index"), "widgetData": card.get("widget")}
            if "config.json" in head.files:
                found["config"] = json.loads(head.files["config.json"].data)
        if repo.type == "space":
            runtime = {"stage": "BUILDING", "hardware": {"current": None}}
            found |= {"sdk": card.get("sdk", repo.sdk), "runtime": runtime}
        if wanted := request.query.get("expand", []) + request.query.get("expand[]", []):
            found = {name: found.get(name) for name in ("_id", "id", *wanted)}
        return answer({name: value for name, value in found.items() if value is not None})

    def history(self, request):
        found = [
            {"id": c.oid, "title": c.title, "message": c.description, "date": c.date}
            | {"authors": [{"user": c.author}]}
            for c in self.commits(request.repo.id, request.repo.type, request.rev)
        ]
        return self.paged(request, found)

    def paged(self, request, entries):
        start = int(request.query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.page < len(entries):
            query = {k: v[0] for k, v in request.query.items()} | {"cursor": start + self.page}
            headers["Link"] = f'<{self.url}{request.path}?{urlencode(query)}>; rel="next"'
        return answer(entries[start : start + self.page], headers=headers)

    def entries(self, request, expand) -> list[dict]:
        """Every folder and file of a revision."""
        head = request.repo.at(request.rev)
        more = {"lastCommit": {"id": head.oid, "title": head.title, "date": head.date}}
        folders = {path[:i] for path in head.files for i, c in enumerate(path) if c == "/"}
        found = []
        for path in sorted(folders | set(head.files)):
            if path in folders:
                inside = [f"{p} {f.oid}" for p, f in head.files.items() if p.startswith(path + "/")]
                entry = {"type": "directory", "oid": sha1("\n".join(sorted(inside))), "size": 0}
            else:
                file = head.files[path]
                entry = {"type": "file", "oid": file.oid, "size": len(file.data)}
                entry |= {"lfs": file.lfs_info("oid")} if file.lfs else {}
            found.append(entry | {"path": path} | (more if expand else {}))
        return found

    def tree(self, request):
        entries, folder = self.entries(request, request.flag("expand")), request.name
        if folder and folder not in (e["path"] for e in entries if e["type"] == "directory"):
            raise Refused(404, f'{folder} does not exist on "{request.rev}"', "EntryNotFound")
        prefix = f"{folder}/" if folder else ""
        entries = [e for e in entries if e["path"].startswith(prefix)]
        if not request.flag("recursive"):
            entries = [e for e in entries if "/" not in e["path"].removeprefix(prefix)]
        return self.paged(request, entries)

    def paths_info(self, request):
        asked = parse_qs(request.body.decode())
        expand = asked.get("expand", [""])[0].lower() == "true"
        paths = {path.rstrip("/") for path in asked["paths"]}
        return answer([e for e in self.entries(request, expand) if e["path"] in paths])

    def resolve(self, request):
        repo, head = request.repo, request.repo.at(request.rev)
        if repo.gated and not (request.user and request.user.belongs_to(repo.id)):
            why = f"Access to {repo.type} {repo.id} is restricted. Ask for it on its page."
            raise Refused(403 if request.user else 401, why, "GatedRepo")
        if request.name not in head.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        file = head.files[request.name]
        headers = {"X-Repo-Commit": head.oid, "ETag": f'"{file.etag}"'}
        if not file.lfs:
            return self.content(request, file.data, headers)
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        headers["Location"] = self.signed(repo, file.sha256)
        return Answer(302, headers, b"")

    def content(self, request, data, headers):
        """The bytes, or those that the header Range asks for."""
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", request.headers.get("range", ""))
        if not asked:
            return Answer(200, headers, data)
        first, last, tail = (
            None if group in (None, "") else int(group) for group in asked.groups()
        )
        start = max(len(data) - tail, 0) if first is None else first
        stop = len(data) if last is None else min(last + 1, len(data))
        if start >= stop:
            return Answer(416, headers | {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Answer(206, headers, data[start:stop])

    # Writing

    def preupload(self, request):
        self.check_write(request)
        files, found = request.repo.at(request.rev).files, []
        for asked in request.json["files"]:
            path, sample = asked["path"], base64.b64decode(asked["sample"])
            mode = "lfs" if is_lfs(files, path, asked["size"], sample) else "regular"
            found.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            found[-1] |= {"oid": files[path].etag} if path in files else {}
        return answer({"files": found})

    def signed(self, repo, sha256, part="") -> str:
        path = f"/lfs/{repo.type}s/{repo.id}/{sha256}{part}"
        return f"{self.storage_url}{path}?signature={sha1(self.secret + path)}"

    def lfs_batch(self, request):
        self.check_write(request)
        asked, repo, objects = request.json, request.repo, []
        verify = {"href": f"{self.page_of(repo.type, repo.id)}.git/info/lfs/objects/verify"}
        for entry in asked["objects"]:
            oid, size, chunk = entry["oid"], entry["size"], self.multipart_from
            upload = {"href": self.signed(repo, oid)}
            if size >= chunk and "multipart" in asked["transfers"]:
                parts = range(1, math.ceil(size / chunk) + 1)
                urls = {f"{n:05}": self.signed(repo, oid, f"/{n}") for n in parts}
                upload = {"href": self.signed(repo, oid, "/complete")}
                upload["header"] = {"chunk_size": str(chunk)} | urls
            actions = {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": oid, "size": size} | ({} if oid in repo.objects else actions))
        return answer({"objects": objects})

    def lfs_verify(self, request):
        self.check_write(request)
        if len(request.repo.objects.get(request.json["oid"], b"")) != request.json["size"]:
            raise Refused(404, "The object was not uploaded")
        return answer({})

    def storage(self, request):
        """Where LFS objects are put and got: at signed addresses, without a token."""
        repo, oid, part = request.repo, request.name, request.part
        if "authorization" in request.headers:
            raise Refused(400, "Only one auth mechanism allowed: this address is signed")
        if request.query.get("signature") != [sha1(self.secret + request.path)]:
            raise Refused(403, "Access denied: the signature does not match")
        if request.method in ("GET", "HEAD"):
            return self.content(request, repo.objects[oid], {"ETag": f'"{oid}"'})
        data = request.body
        if request.method == "PUT" and part:
            repo.parts[oid, int(part)] = data
            return Answer(200, {"ETag": etag(data)}, b"")
        if request.method == "POST":
            asked = request.json["parts"]
            parts = [repo.parts.get((oid, p["partNumber"]), b"") for p in asked]
            if [etag(p) for p in parts] != [p["etag"] for p in asked]:
                raise Refused(400, "InvalidPart: a part is missing or not the one that was sent")
            data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "XAmzContentSHA256Mismatch: these bytes are not that object")
        repo.objects[oid] = data
        return answer({})

    def commit(self, request):
        self.check_write(request)
        repo, branch = request.repo, request.rev
        if request.flag("create_pr"):
            raise Refused(400, "This Hub has no pull requests")
        if branch not in repo.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, *operations = map(json.loads, request.body.splitlines())
        head = head["value"]
        if not repo.branches[branch].startswith(head.get("parentCommit", "")):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.at(branch).files)
        for operation in operations:
            apply(operation["key"], operation["value"], files, repo)
        errors, _ = check_card(files.get("README.md", File(b"")).data.decode(), repo.type)
        if errors and "README.md" in files:
            raise Refused(400, "Invalid metadata in README.md: " + "; ".join(errors))
        title, details = head["summary"], head.get("description", "")
        commit = repo.commit(branch, files, title, details, request.user.name)
        page = f"{self.page_of(repo.type, repo.id)}/commit/{commit.oid}"
        return answer({"success": True, "commitOid": commit.oid, "commitUrl": page})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def respond(self) -> None:
        hub, address = self.server.hub, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query, body = parse_qs(address.query), self.read_body()
        time.sleep(hub.delay)
        request = Request(self.command, address.path, query, headers, body)
        with hub.lock:
            status, headers, content = hub.respond(request)
            hub.requests.append((self.command, address.path, status))
        if status is None:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that the clients of this process reach, with user ann and her token hf_ann."""
    with Hub() as server:
        server.add_user("ann", "hf_ann", orgs=("lab",))
        server.connect(monkeypatch, tmp_path / "hf-home")
        yield server
