"""To the Hub: what of a run goes up, in one commit, and what to do when it does not work.

`HfApi.upload_folder` may split an upload into several commits (huggingface_hub 2 does with Xet); a
reader could then load new weights with an old config. So everything goes up by one `create_commit`:
until it is through, the old revision is what everybody sees.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import (
    HTTPError,
)
from huggingface_hub.utils import validate_repo_id
from rich.console import Console

from ..errors import UsageError
from ..models.artifact import PORTABLE, V5_CONFIG
from ..portable.context import TURN_SEPARATOR
from ..report.model_card import model_card
from ..run_folder import read_json
from ..serve.web import space_files
from .hub_errors import _short, passing, told

logger = logging.getLogger(__name__)
ATTEMPTS, WAIT = 4, 2.0  # of an upload; seconds before the second, twice as long before each next
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CODE = ("configuration_rnn.py", "context.py", "modeling_rnn.py", "pipeline.py")
PUBLISHED = ("config.json", V5_CONFIG, "generation_config.json", "chat_template.jinja")
PUBLISHED += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PUBLISHED += ("added_tokens.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json")
PUBLISHED += ("vocab.txt", "merges.txt", "source.spm", "target.spm")
PUBLISHED += ("metrics.json", "evaluation.json", "curves.png")
NEEDED = ("metrics.json", "config.yaml", "config.json", V5_CONFIG, "generation_config.json")
NEEDED += ("tokenizer_config.json", "context.py", "pipeline.py")


def model_files(
    folder: str | Path,
    repo: str,
    license: str | None = None,
    language: str | None = None,
    revision: str = "main",
    samples: bool = True,
) -> dict[str, Path | bytes]:
    """List what of a finished run goes to the Hub: weights, settings, tokenizer, code, card.

    Nothing else does: no checkpoint, optimizer, log or setting of this machine, and of the test
    pairs the few that the card shows. Code is that of this project, never that of the folder.

    Args:
        folder: a run folder.
        repo: `user/name`, for the card.
        license: of the dialogues; by default what is known of them.
        language: of the dialogues; by default what the run's settings say.
        revision: the branch, for the card.
        samples: show exchanges of the test set in the card.

    Returns:
        The path in the repository, and the file or its content.

    Raises:
        UsageError: the folder is no finished run, brings foreign code, or a file of it names a
            token or a path of this machine.
    """
    folder = Path(folder)
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        raise UsageError(
            f"{str(folder)!r} is no finished run: {', '.join(absent)} is missing. Give the "
            "output_dir of run_seq2seq_dialog.py; the same command finishes a run that was stopped."
        )
    _check_code(folder)
    names = [name for name in PUBLISHED if (folder / name).is_file()]
    if (folder / INDEX).is_file():
        names += [INDEX, *sorted(set(_mapping(folder / INDEX)["weight_map"].values()))]
    else:
        names.append(WEIGHTS)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{str(folder)!r} has no {', '.join(missing)}: train or copy it again.")
    files = {name: folder / name for name in names}
    files |= {name: PORTABLE / name for name in CODE if (folder / name).is_file()}
    card = model_card(folder, repo, license, revision, language, samples)
    files["README.md"] = card.encode()
    _check_private(files, folder)
    return files


def _mapping(path: Path) -> dict:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {str(path)!r}: {_short(error)}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{str(path)!r} must hold a mapping: train or copy it again.")
    return content


def _check_code(folder: Path) -> None:
    """Refuse code that is not this project's: files, and names of other repositories'."""
    foreign = {path.name for path in folder.glob("*.py")} - set(CODE)
    for name in ("config.json", V5_CONFIG, "tokenizer_config.json"):
        config = _mapping(folder / name)
        named = list(config.get("auto_map", {}).values())
        named += [task.get("impl") for task in config.get("custom_pipelines", {}).values()]
        for each in named:
            for reference in each if isinstance(each, list) else [each]:
                if reference and f"{reference.split('.')[0]}.py" not in CODE:
                    foreign.add(reference)
    if foreign:
        raise UsageError(
            f"{str(folder)!r} brings code that is not this project's ({', '.join(sorted(foreign))})"
            ", which others would have to trust. Upload it by `hf upload` if you have read it."
        )


def _check_private(files: Mapping[str, Path | bytes], folder: Path) -> None:
    """Refuse to send a token, or where things lie on this machine, to everybody."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    paths = {str(value) for value in config.values() if Path(str(value)).is_absolute()}
    paths |= {str(folder.resolve()), get_token()}
    places = {str(Path.cwd()), str(Path.home())}  # short ones may stand in a reply
    for name, file in files.items():
        if not name.endswith((".json", ".md", ".jinja")):
            continue
        text = file.decode() if isinstance(file, bytes) else file.read_text(encoding="utf-8")
        text = text.replace("\\", "")  # before what Markdown or JSON escapes
        for secret in (paths if name == "README.md" else paths | places) - {None, "", "/"}:
            # A path only where it begins and ends as one: /data is none in example.org/datasets.
            pattern = rf"(?<![\w.-]){re.escape(secret.replace(chr(92), ''))}(?![\w-])"
            if re.search(pattern, text):
                what = "your token" if secret == get_token() else repr(secret)
                where = "predictions.jsonl or config.yaml" if name == "README.md" else name
                raise UsageError(
                    f"{name} would tell everybody {what}: take it out of {where} in "
                    f"{str(folder)!r}, then publish again."
                )


def own_repo(repo: str) -> str:
    """Complete a name to `user/name` and see, before any long work, that one may write there.

    Raises:
        UsageError: not logged in, a token that may only read, or someone else's namespace.
    """
    with told(repo):
        validate_repo_id(repo)
        who = HfApi().whoami()
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError(
            f"The token of {who['name']} may only read: make one that may write at "
            "https://huggingface.co/settings/tokens, then `hf auth login` or set HF_TOKEN."
        )
    namespace = repo.split("/")[0] if "/" in repo else who["name"]
    mine = [who["name"], *(org["name"] for org in who.get("orgs", ()))]
    if namespace not in mine:
        raise UsageError(
            f"{namespace!r} in {repo!r} is not yours: the token may write to {', '.join(mine)}. "
            "Choose one of them, or log in as a member of the other."
        )
    return repo if "/" in repo else f"{namespace}/{repo}"


def push(
    files: Mapping[str, Path | bytes],
    repo: str,
    repo_type: str = "model",
    *,
    message: str,
    private: bool = False,
    revision: str = "main",
    own: Callable[[set[str]], bool],
    stale: Callable[[str], bool] = lambda path: False,
    space_sdk: str | None = None,
) -> str:
    """Make a repository hold `files`, by one commit; what is there already is not sent again.

    An upload that is cut off is tried again; what went up before is not sent twice. Until the
    commit is through, the old revision is what everybody sees.

    Args:
        files: path in the repository -> a file or its content.
        repo: `user/name`.
        repo_type: model, dataset or space.
        message: of the commit.
        private: make a new repository private; otherwise it is what its namespace makes new ones.
        revision: a branch, made where it is missing.
        own: tells of the paths in a repository, but for its card, whether it is of this kind.
        stale: tells of a path in the repository that is not in `files` whether it has to go.
        space_sdk: of a Space.

    Returns:
        The commit.

    Raises:
        UsageError: says what to do.
    """
    api = HfApi()
    options = {"repo_id": repo, "repo_type": repo_type}

    def once() -> str:
        api.create_repo(**options, private=private or None, exist_ok=True, space_sdk=space_sdk)
        if private and not api.repo_info(**options).private:
            raise UsageError(
                f"{repo} exists and everybody can read it: make it private in its settings on the "
                "Hub first, or choose another name."
            )
        if revision != "main":
            _make_branch(api, options, revision)
        head = api.repo_info(**options, revision=revision).sha
        there = set(api.list_repo_files(**options, revision=head))
        paths = there - {".gitattributes", "README.md"}
        if paths and not own(paths):
            raise UsageError(
                f"{repo} holds something else ({', '.join(sorted(there)[:5])}): choose another "
                "name, or delete its files on the Hub first."
            )
        gone = sorted(path for path in there - set(files) if stale(path))
        operations = [CommitOperationDelete(path) for path in gone]
        operations += [CommitOperationAdd(path, file) for path, file in files.items()]
        commit = api.create_commit(
            **options,
            operations=operations,
            commit_message=message,
            revision=revision,
            parent_commit=head,  # what was listed is what is changed
        )
        return commit.oid

    with told(repo), _stoppable():
        for attempt in range(1, ATTEMPTS):
            try:
                return once()
            except (HTTPError, RuntimeError, json.JSONDecodeError) as error:
                if not passing(error):
                    raise
                logger.warning("The upload was interrupted (%s); trying again.", _short(error))
                time.sleep(WAIT * 2 ** (attempt - 1))
        return once()


def _make_branch(api: HfApi, options: dict, revision: str) -> None:
    tags = {tag.name for tag in api.list_repo_refs(**options).tags}
    if revision in tags or revision.startswith("refs/") or re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(
            f"revision is {revision!r}, which is a tag, a reference or a commit; it must be the "
            "name of a branch, old or new."
        )
    api.create_branch(**options, branch=revision, exist_ok=True)


@contextmanager
def _stoppable():
    """Let Ctrl-C end an upload at once: the client's threads would go on to their end."""

    def stop(*_):
        print("\nStopped. What went up is kept: the same command continues.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def publish(
    folder: str,
    repo: str,
    private: bool = False,
    revision: str = "main",
    license: str | None = None,
    language: str | None = None,
    samples: bool = True,
    space: str | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a finished run on the Hub, and on request a Space that serves it.

    Args:
        folder: a run folder; it stays as it is.
        repo: `user/name`, or a name in one's own namespace.
        private: make a new repository private; the Space of a private model is private, too.
        revision: the branch.
        license: of the dialogues, where the run does not know it.
        language: of the dialogues, where it is not that of the run's settings.
        samples: show exchanges of the test set in the card, and begin the Space's chat with them.
        space: `user/name` of a Space with a chat page.
        dry_run: only list what would go up.

    Raises:
        UsageError: says what to do; the same command continues.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for name in filter(None, (repo, space)):
        with told(name):
            validate_repo_id(name)
    if not dry_run or "/" not in repo:
        repo = own_repo(repo)
    if space and not dry_run:
        space = own_repo(space)
    files = model_files(folder, repo, license, language, revision, samples)
    shown = ModelCard(files["README.md"].decode()).data.get("widget") or ()
    openings = [example["text"].split(TURN_SEPARATOR)[0].strip() for example in shown]
    if dry_run:
        show_files(files, repo, console)
        if space:
            show_files(space_files(repo, private=private), f"spaces/{space}", console)
        return
    commit = push(
        files,
        repo,
        message="Publish the model",
        private=private,
        revision=revision,
        stale=lambda path: path in (*PUBLISHED, *CODE, WEIGHTS, INDEX) or _is_shard(path),
        own=lambda paths: V5_CONFIG in paths,
    )
    page = f"{HfApi().endpoint}/{repo}"
    branch = "" if revision == "main" else f", revision={revision!r}"
    console.print(f"Published: {page}{'' if revision == 'main' else f'/tree/{revision}'}")
    console.print(
        "Call it:   from transformers import pipeline\n"
        f'           pipeline("text2text-generation", model="{repo}"{branch}, '
        'trust_remote_code=True)("How are you?")'
    )
    if space:
        with told(repo):
            private = private or bool(HfApi().repo_info(repo).private)
        push(
            space_files(repo, commit, private=private, openings=openings),
            space,
            "space",
            message=f"Serve {repo}",
            private=private,
            own=lambda paths: "model.json" in paths,
            space_sdk="gradio",
        )
        console.print(f"Chat:      {HfApi().endpoint}/spaces/{space}")


def dataset_terms(name: str, revision: str | None) -> tuple[str | None, str | None]:
    """Ask the Hub for a data set's commit and licence; None where it cannot tell."""
    try:
        found = HfApi().dataset_info(name, revision=revision)
    except (HTTPError, OSError, ValueError):
        return None, None
    license = (found.card_data or {}).get("license")
    return found.sha, license if isinstance(license, str) else None


def _is_shard(path: str) -> bool:
    return path.startswith("model-") and path.endswith(".safetensors")


def show_files(files: Mapping[str, Path | bytes], repo: str, console: Console) -> None:
    """Print what would go up, with its size in bytes."""
    console.print(f"Would go to {repo}:")
    sizes = {
        name: len(file) if isinstance(file, bytes) else file.stat().st_size
        for name, file in sorted(files.items())
    }
    for name, size in sizes.items():
        console.print(f"{size:>15,}  {name}")
    console.print(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files")
