"""Bring a repository on the Hub to a set of files by one commit: for models, data and Spaces.

`HfApi.upload_folder` may split an upload into several commits (huggingface_hub 2 does with Xet); a
reader could then load new weights with an old config. So everything goes up by one `create_commit`:
until it is through, the old revision is what everybody sees.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id

from ..errors import Stopped, UsageError
from ..hub_errors import TOKENS, is_transient, short_reason, translated_errors

logger = logging.getLogger(__name__)
ATTEMPTS = 4  # at an upload
WAIT = 2.0  # seconds before the second attempt, doubled before each of the next


@dataclass(frozen=True)
class RepoKind:
    """What a repository is for, and which of its files belong to that.

    Args:
        repo_type: as the Hub calls it.
        is_ours: tells of all paths in a repository but its card whether it is of this kind.
        is_stale: tells of a path that is not published any more whether it is deleted.
        space_sdk: of a Space.
    """

    repo_type: Literal["model", "dataset", "space"]
    is_ours: Callable[[set[str]], bool]
    is_stale: Callable[[str], bool] = lambda path: False
    space_sdk: str | None = None


@dataclass(frozen=True)
class Publication:
    """A finished run or dialogues, and how they are published.

    Args:
        folder: a run folder, which stays as it is, or dialogues, as `data` of a run takes them.
        repo: `user/name`, or a name in one's own namespace.
        private: make a new repository private; the Space of a private model is private, too.
        revision: the branch.
        license: of the dialogues, as the Hub names it, where it is not known.
        language: of the dialogues; by default that of the run's settings, or else English.
        dry_run: only list what would go up.
        space: of a model: `user/name` of a Space with a chat page.
        samples: of a model: show exchanges of the test set in the card and begin the Space's chat
            with them.
        detokenize: of dialogues: write natural text from spaced tokens.
    """

    folder: str | Path
    repo: str
    private: bool = False
    revision: str = "main"
    license: str | None = None
    language: str | None = None
    dry_run: bool = False
    space: str | None = None
    samples: bool = True
    detokenize: bool = True

    @property
    def revision_argument(self) -> str:
        """What a Python call adds to read the branch."""
        return "" if self.revision == "main" else f", revision={self.revision!r}"


def prepare(folder: str | Path, repo: str, **options) -> Publication:
    """Make a publication; check, before any long work, that one may write to its repositories.

    A dry run needs no login where `repo` is `user/name`.
    """
    publication = Publication(folder, repo, **options)
    for name in filter(None, (repo, publication.space)):
        check_name(name)
    if not publication.dry_run or "/" not in repo:
        publication = replace(publication, repo=writable_repo(repo))
    if publication.space and not publication.dry_run:
        publication = replace(publication, space=writable_repo(publication.space))
    return publication


def send(
    publication: Publication,
    files: Mapping[str, Path | bytes],
    kind: RepoKind,
    message: str,
    label: str = "Published:",
) -> str | None:
    """Push files and print where they are, or list them in a dry run; return the commit."""
    is_model = kind.repo_type == "model"
    repo = publication.repo if is_model else f"{kind.repo_type}s/{publication.repo}"
    if publication.dry_run:
        show_files(files, repo)
        return None
    commit = push(publication, files, kind, message)
    tree = "" if publication.revision == "main" else f"/tree/{publication.revision}"
    print(f"{label:10} {HfApi().endpoint}/{repo}{tree}", flush=True)
    return commit


def writable_repo(repo: str) -> str:
    """Complete a name to `user/name` and check that one may write there."""
    check_name(repo)
    with translated_errors(repo):
        user = HfApi().whoami()
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError(
            f"The token of {user['name']} may only read: make one that may write at {TOKENS}, then "
            "`hf auth login` or set HF_TOKEN."
        )
    namespace = repo.split("/")[0] if "/" in repo else user["name"]
    writable = [user["name"], *(org["name"] for org in user.get("orgs", ()))]
    if namespace not in writable:
        raise UsageError(
            f"{namespace!r} in {repo!r} is not yours: the token may write to "
            f"{', '.join(writable)}. Choose one of them, or log in as a member of the other."
        )
    return repo if "/" in repo else f"{namespace}/{repo}"


def check_name(repo: str) -> None:
    """Refuse what cannot be the name of a repository."""
    with translated_errors(repo):
        validate_repo_id(repo)


def push(
    publication: Publication, files: Mapping[str, Path | bytes], kind: RepoKind, message: str
) -> str:
    """Make a repository hold `files`, by one commit; what is there already is not sent again.

    An upload that is cut off is tried again. What went up before is not sent twice. Ctrl-C is
    heeded at once: no commit is begun after it.

    Args:
        publication: the repository, `user/name`, its branch, and whether a new one is private.
        files: path in the repository -> a file or its content.
        kind: what the repository is for.
        message: of the commit.

    Returns:
        The commit.

    Raises:
        Stopped: by Ctrl-C.
    """
    repo = publication.repo
    stopped = threading.Event()

    def commit_with_retries() -> str:
        for attempt in range(1, ATTEMPTS):
            try:
                return _commit(publication, files, kind, message, stopped)
            except (HTTPError, RuntimeError, json.JSONDecodeError) as error:
                if stopped.is_set() or not is_transient(error):
                    raise
                logger.warning(
                    "The upload was interrupted (%s); trying again.", short_reason(error)
                )
                time.sleep(WAIT * 2 ** (attempt - 1))
        return _commit(publication, files, kind, message, stopped)

    # The client waits for its upload threads when it is interrupted, so it works in the background.
    upload = _in_background(f"upload to {repo}", commit_with_retries)
    try:
        with translated_errors(repo):
            return upload.result()
    except KeyboardInterrupt:
        stopped.set()
        raise Stopped("What went up is kept: the same command continues.") from None


def _in_background(name: str, work: Callable[[], str]) -> Future:
    """Start work in a thread that does not keep the process alive."""
    future: Future = Future()

    def carry_out() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=carry_out, name=name, daemon=True).start()
    return future


def _commit(
    publication: Publication,
    files: Mapping[str, Path | bytes],
    kind: RepoKind,
    message: str,
    stopped: threading.Event,
) -> str:
    """Make the repository and the branch where they are missing, upload, and commit."""
    api = HfApi()
    repo, private, revision = publication.repo, publication.private, publication.revision
    target = {"repo_id": repo, "repo_type": kind.repo_type}
    api.create_repo(**target, private=private or None, exist_ok=True, space_sdk=kind.space_sdk)
    if private and not api.repo_info(**target).private:
        raise UsageError(
            f"{repo} exists and everybody can read it: make it private in its settings on the Hub "
            "first, or choose another name."
        )
    if revision != "main":
        _make_branch(api, target, revision)
    head = api.repo_info(**target, revision=revision).sha
    old_paths = set(api.list_repo_files(**target, revision=head))
    content = old_paths - {".gitattributes", "README.md"}
    if content and not kind.is_ours(content):
        raise UsageError(
            f"{repo} holds something else ({', '.join(sorted(old_paths)[:5])}): choose another "
            "name, or delete its files on the Hub first."
        )
    deletions = sorted(path for path in old_paths - set(files) if kind.is_stale(path))
    operations = [CommitOperationDelete(path) for path in deletions]
    additions = [CommitOperationAdd(path, file) for path, file in files.items()]
    api.preupload_lfs_files(**target, additions=additions, revision=revision, free_memory=False)
    if stopped.is_set():
        raise Stopped
    commit = api.create_commit(
        **target,
        operations=operations + additions,
        commit_message=message,
        revision=revision,
        parent_commit=head,  # what was listed is what is changed
    )
    return commit.oid


def _make_branch(api: HfApi, target: dict, revision: str) -> None:
    tags = {tag.name for tag in api.list_repo_refs(**target).tags}
    if revision in tags or revision.startswith("refs/") or re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(
            f"revision is {revision!r}, which is a tag, a reference or a commit; it must be the "
            "name of a branch, old or new."
        )
    api.create_branch(**target, branch=revision, exist_ok=True)


def show_files(files: Mapping[str, Path | bytes], repo: str) -> None:
    """Print what would go up, with its size in bytes."""
    print(f"Would go to {repo}:")
    sizes = {
        name: len(file) if isinstance(file, bytes) else file.stat().st_size
        for name, file in sorted(files.items())
    }
    for name, size in sizes.items():
        print(f"{size:>15,}  {name}")
    print(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files")
