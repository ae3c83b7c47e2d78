"""The repositories of the test Hub: branches of commits whose files are in git or in LFS."""

import base64
import fnmatch
import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

REGULAR_LIMIT = 10 * 2**20  # bytes: larger files are LFS files
LFS_PATTERNS = """*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model
*.msgpack *.npy *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors
saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*"""
GIT_ATTRIBUTES = re.sub(r"(\S+)\s*", r"\1 filter=lfs diff=lfs merge=lfs -text\n", LFS_PATTERNS)
SPACE_CARD = (
    "---\ntitle: {0}\nemoji: 🚀\ncolorFrom: blue\ncolorTo: gray\nsdk: {1}\npinned: false\n---\n"
)


class Refused(Exception):
    """An answer that is no success: status, message, X-Error-Code, and more for the body."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.code, self.body = status, code, body


def sha1(data: str | bytes) -> str:
    return hashlib.sha1(data.encode() if isinstance(data, str) else data).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a revision: in git, or a pointer there to an LFS object."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        pointer = f"{head}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        return pointer if self.lfs else self.data

    @cached_property
    def oid(self) -> str:
        return sha1(b"blob %d\0" % len(self.blob) + self.blob)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def lfs_info(self, name: str) -> dict:
        return {name: self.sha256, "size": len(self.data), "pointerSize": len(self.blob)}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    type: str  # model, dataset or space
    id: str
    private: bool
    sdk: str | None
    gated: bool
    commits: dict[str, Commit] = field(default_factory=dict)  # by oid, oldest first
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)  # of uploads in parts

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, branch, files, title, description="", author="system") -> Commit:
        parent = self.branches.get(branch)
        date = datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        tree = sorted((path, file.oid) for path, file in files.items())
        oid = sha1(json.dumps([self.type, self.id, parent, title, date, len(self.commits), tree]))
        self.commits[oid] = Commit(oid, parent, title, description, author, date, files)
        self.branches[branch] = oid
        return self.commits[oid]


def is_lfs(files, path, size, sample) -> bool:
    """By .gitattributes, or because the file is large or binary."""
    attributes = files.get(".gitattributes", File(b"")).data.decode()
    for pattern in re.findall(r"^(\S+) .*filter=lfs", attributes, re.MULTILINE):
        if fnmatch.fnmatchcase(path if "/" in pattern else path.split("/")[-1], pattern):
            return True
    return size >= REGULAR_LIMIT or b"\0" in sample


def apply(key, value, files, repo) -> None:
    """Do one operation of a commit to `files`."""
    path = value["path"]
    if {"", ".", "..", ".git"} & set(path.removesuffix("/").split("/")):
        raise Refused(400, f"Invalid path: {path}")
    if key == "file":
        files[path] = File(base64.b64decode(value["content"], validate=True))
        if len(files[path].data) > REGULAR_LIMIT:
            why = "it contains files larger than 10 MiB"
            raise Refused(400, f"Your push was rejected because {why}. Offending file: {path}")
    elif key == "lfsFile":
        data = repo.objects.get(value["oid"])
        if data is None or value.get("size", len(data)) != len(data):
            why = "an LFS pointer pointed to a file that does not exist"
            raise Refused(400, f"Your push was rejected because {why}. Offending file: {path}")
        if not is_lfs(files, path, 0, b""):
            line = f"{path} filter=lfs diff=lfs merge=lfs -text\n".encode()
            files[".gitattributes"] = File(files.get(".gitattributes", File(b"")).data + line)
        files[path] = File(data, lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        inside = path.removesuffix("/") + "/"
        gone = [p for p in files if (p.startswith(inside) if key[7:] == "Folder" else p == path)]
        if not gone:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise Refused(400, f"Unknown operation: {key}")
