"""Bring a repository on the Hub to a set of files by one commit: for models, data and Spaces.

`HfApi.upload_folder` may split an upload into several commits (huggingface_hub 2 does with Xet); a
reader could then load new weights with an old config. So everything goes up by one `create_commit`:
until it is through, the old revision is what everybody sees.
"""

import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import validate_repo_id

from ..errors import Stopped, UsageError
from ..hub_errors import hub_page, is_transient, short_reason, tokens_page, translated_errors

logger = logging.getLogger(__name__)
ATTEMPTS = 4  # at an upload
WAIT = 2.0  # seconds before the second attempt, doubled before each of the next


@dataclass(frozen=True)
class RepoKind:
    """What a repository is for, and which of its files belong to that."""

    repo_type: Literal["model", "dataset", "space"]
    is_ours: Callable[[set[str]], bool]  # of all its paths but the card: is it of this kind
    is_stale: Callable[[str], bool] = lambda path: False  # of a path not published any more: delete
    space_sdk: str | None = None


@dataclass(frozen=True)
class Publication:
    """A finished run or dialogues, and how they are published."""

    folder: str | Path  # a run folder, which stays as it is, or dialogues as `data` of a run
    repo: str  # `user/name`, or a name in one's own namespace
    private: bool = False  # make a new repository private; the Space of a private model is, too
    revision: str = "main"  # the branch
    license: str | None = None  # of the dialogues, as the Hub names it, where it is not known
    language: str | None = None  # of the dialogues; by default that of the run, or else English
    dry_run: bool = False  # only list what would go up
    space: str | None = None  # of a model: `user/name` of a Space with a chat page
    card: str | None = None  # of a model: a file to write its card to, so as to read it first
    samples: bool = True  # of a model: show exchanges of the test set, in card and Space
    detokenize: bool | None = None  # of dialogues: natural text from spaced tokens; of English

    @property
    def revision_argument(self) -> str:
        """What a Python call adds to read the branch."""
        return "" if self.revision == "main" else f", revision={self.revision!r}"


def prepare(folder: str | Path, repo: str, **options) -> Publication:
    """Make a publication; check, before any long work, that one may write to its repositories."""
    publication = Publication(folder, repo, **options)
    dry_run, space = publication.dry_run, publication.space
    repo = writable_repo(repo, dry_run)
    return replace(publication, repo=repo, space=space and writable_repo(space, dry_run))


def send(
    publication: Publication,
    files: Mapping[str, Path | bytes],
    kind: RepoKind,
    message: str,
    label: str = "Published:",
) -> str | None:
    """Push files and print where they are; return the commit. A dry run lists them with sizes."""
    is_model = kind.repo_type == "model"
    repo = publication.repo if is_model else f"{kind.repo_type}s/{publication.repo}"
    if publication.dry_run:
        sizes = {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size
            for name, file in sorted(files.items())
        }
        print(f"Would go to {repo}:")
        for name, size in sizes.items():
            print(f"{size:>15,}  {name}")
        print(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files")
        return None
    commit = push(publication, files, kind, message)
    tree = "" if publication.revision == "main" else f"/tree/{publication.revision}"
    print(f"{label:10} {hub_page(repo)}{tree}", flush=True)
    return commit


def writable_repo(repo: str, dry_run: bool = False) -> str:
    """Complete a name to `user/name` and check that one may write there; a dry run need not."""
    with translated_errors(repo):
        validate_repo_id(repo)
        if dry_run and "/" in repo:
            return repo
        user = HfApi().whoami()
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError(
            f"The token of {user['name']} may only read: make one that may write at "
            f"{tokens_page()}, then `hf auth login` or set HF_TOKEN."
        )
    namespace = repo.split("/")[0] if "/" in repo else user["name"]
    writable = [user["name"], *(org["name"] for org in user.get("orgs", ()))]
    if namespace not in writable:
        raise UsageError(
            f"{namespace!r} in {repo!r} is not yours: the token may write to "
            f"{', '.join(writable)}. Choose one of them, or log in as a member of the other."
        )
    return repo if "/" in repo else f"{namespace}/{repo}"


def push(
    publication: Publication, files: Mapping[str, Path | bytes], kind: RepoKind, message: str
) -> str:
    """Make a repository hold `files`, by one commit; what is there already is not sent again.

    An upload that is cut off is tried again. What went up before is not sent twice. Ctrl-C is
    heeded at once, as `Stopped`: no commit is begun after it. Returns the commit.
    """
    repo = publication.repo
    stopped = threading.Event()

    def commit_with_retries() -> str:
        for attempt in itertools.count(1):
            try:
                return _commit(publication, files, kind, message, stopped)
            except (HTTPError, RuntimeError, json.JSONDecodeError) as error:
                if attempt == ATTEMPTS or stopped.is_set() or not is_transient(error):
                    raise
                reason = short_reason(error)
                logger.warning("The upload was interrupted (%s); trying again.", reason)
                time.sleep(WAIT * 2 ** (attempt - 1))

    # The client waits for its upload threads when it is interrupted, so it works in the background.
    upload = ThreadPoolExecutor(1, f"upload to {repo}").submit(commit_with_retries)
    try:
        with translated_errors(repo):
            return upload.result()
    except KeyboardInterrupt:
        stopped.set()
        raise Stopped("What went up is kept: the same command continues.") from None


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
    _check_privacy(target, private)
    if revision != "main":
        _make_branch(api, target, revision)
    head, old_paths = _check_content(target, revision, kind)
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


def is_private(repo: str) -> bool:
    """Tell whether a model's repository is there and private."""
    with translated_errors(repo):
        return HfApi().repo_exists(repo) and bool(HfApi().repo_info(repo).private)


def check_target(publication: Publication, kind: RepoKind) -> None:
    """Refuse a repository that is there and cannot take the files, before others are sent."""
    target = {"repo_id": publication.repo, "repo_type": kind.repo_type}
    with translated_errors(publication.repo):
        if HfApi().repo_exists(**target):
            _check_privacy(target, publication.private)
            revision = publication.revision
            is_there = _check_branch(HfApi(), target, revision)
            _check_content(target, revision if is_there else "main", kind)


def _check_privacy(target: dict, private: bool) -> None:
    if private and not HfApi().repo_info(**target).private:
        raise UsageError(
            f"{target['repo_id']} exists and everybody can read it: make it private in its "
            "settings on the Hub first, or choose another name."
        )


def _check_content(target: dict, revision: str, kind: RepoKind) -> tuple[str, set[str]]:
    """Refuse a repository that holds something else; return its newest commit and its paths."""
    head = HfApi().repo_info(**target, revision=revision).sha
    paths = set(HfApi().list_repo_files(**target, revision=head))
    content = paths - {".gitattributes", "README.md"}
    if content and not kind.is_ours(content):
        raise UsageError(
            f"{target['repo_id']} holds something else ({', '.join(sorted(paths)[:5])}): choose "
            "another name, or delete its files on the Hub first."
        )
    return head, paths


def _check_branch(api: HfApi, target: dict, revision: str) -> bool:
    """Refuse a revision that is no branch, old or new; tell whether it is there."""
    refs = api.list_repo_refs(**target)
    tags = {tag.name for tag in refs.tags}
    if revision in tags or revision.startswith("refs/") or re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(
            f"revision is {revision!r}, which is a tag, a reference or a commit; it must be the "
            "name of a branch, old or new."
        )
    return revision in {branch.name for branch in refs.branches}


def _make_branch(api: HfApi, target: dict, revision: str) -> None:
    _check_branch(api, target, revision)
    try:
        api.create_branch(**target, branch=revision, exist_ok=True)
        api.repo_info(**target, revision=revision)
    except HfHubHTTPError as error:
        if "/" not in revision or error.response.status_code not in (400, 404, 405):
            raise
        raise UsageError(
            f"revision is {revision!r}, but {hub_page('')} knows no branch with a slash in its "
            "name: choose one without."
        ) from error
