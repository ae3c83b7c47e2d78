"""What went wrong on the Hub, in words, and what to do: for data and for publishing alike."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from .errors import UsageError, nearest

XET = re.compile(r"xet-\w+-token|xethub|\bCAS\b")  # in errors of hf_xet, whose types are general


def hub_page(path: str) -> str:
    """Give the address of a page of the Hub that is in use."""
    return f"{constants.ENDPOINT}/{path}"


def tokens_page() -> str:
    """Give the address of the page where tokens are made."""
    return hub_page("settings/tokens")


def check_name(name: str) -> None:
    """Refuse the path of a folder that is not there, for which the Hub would be asked in vain.

    `user/name` is a name on the Hub, unless `user` is `runs` or a folder here that holds runs.
    """
    path, parts = Path(name), name.split("/")
    is_path = len(parts) > 2 or name.startswith((".", "/", "~")) or name.endswith("/")
    if len(parts) == 2:
        is_path |= parts[0] == "runs" or any(path.parent.glob("*/config.yaml"))
    if path.exists() or not (is_path or "\\" in name):
        return
    others = [str(each) for each in path.parent.glob("*/")] if path.parent.is_dir() else []
    raise UsageError(
        f"There is no folder {str(path.resolve())!r}.{nearest(str(path), others)} Give one that "
        "is there, or a name on the Hub, user/name."
    )


def is_transient(error: BaseException) -> bool:
    """Tell whether an error of the Hub's client may be gone at the next try."""
    error = _root(error)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429) or error.response.status_code >= 500
    return isinstance(error, HTTPError | RuntimeError | json.JSONDecodeError)


@contextmanager
def translated_errors(
    repo: str,
    failure: str | None = None,
    remedy: str = "Nothing is lost: the same command continues.",
    revision: str = "main",
):
    """Turn the errors of the Hub's client into a UsageError: the `failure`, and what to do.

    The remedy is for errors that do not tell one themselves.
    """
    try:
        yield
    except UsageError:
        raise
    except (DatasetsError, HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = translate_error(_root(error), repo, remedy, revision)
        raise UsageError(f"{failure or f'{repo} cannot be published'}: {reason}") from error


def translate_error(error: BaseException, repo: str, remedy: str, revision: str) -> str:
    """Word an error of the Hub's client: the reason, and the next step."""
    text = short_reason(error)
    if isinstance(error, HFValidationError):
        return f"{repo!r} cannot be the name of a repository. {text}. Write user/name."
    if isinstance(error, LocalTokenNotFoundError):
        way = f"Run `hf auth login`, or set HF_TOKEN; tokens: {tokens_page()}."
        return f"Not logged in to the Hub. {way}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {repo} was not looked for: unset it. {remedy}"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}. Give a branch, a tag or a commit."
    if isinstance(error, GatedRepoError) or "gated dataset" in text:
        return "it is gated. Ask for access on its page, then log in with `hf auth login`."
    if isinstance(error, DatasetNotFoundError):
        return _not_found(repo, text)
    if isinstance(error, HfHubHTTPError):
        return _translate_status(error, repo, remedy)
    if XET.search(text) and not isinstance(error, HTTPError):
        return (
            f"the storage service Xet does not work ({text}). Set HF_HUB_DISABLE_XET=1, which does "
            f"without it. {remedy}"
        )
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"there is no connection to the Hub at {constants.ENDPOINT} ({text}). {remedy}"
    if isinstance(error, UnicodeEncodeError):
        return f"The token holds {error.object[error.start]!r}, which no token has: set it anew."
    if "Dataset scripts are no longer supported" in text:
        return (
            "it is made by code, which is not run. Where the Hub has converted it, "
            "dataset_revision: refs/convert/parquet gives the same rows."
        )
    if text.startswith("Config name is missing"):
        return (
            "it has several configurations. Give a folder with the files of one: `hf download "
            f"--repo-type dataset`. ({text})"
        )
    return f"{text}." if isinstance(error, ValueError) else f"{text}. {remedy}"


def _translate_status(error: HfHubHTTPError, repo: str, remedy: str) -> str:
    """Word a refusal of the server by its HTTP status."""
    status = error.response.status_code
    message = (error.server_message or short_reason(error)).rstrip(".")
    if status == 401 and get_token():
        return f"The Hub does not know this token. Make a new one at {tokens_page()}. {remedy}"
    if status == 401 or (status == 404 and not isinstance(error, EntryNotFoundError)):
        return _not_found(repo, message)
    if status == 402:
        return (
            f"The Hub wants to be paid for {repo}: {message}. A Space may be free on ZeroGPU: make "
            f"it at {hub_page('new-space')}, then the same command fills it. {remedy}"
        )
    if status == 413 or "storage limit" in message.lower() or "quota" in message.lower():
        return (
            f"The Hub has no room for {repo}: {message}. Free some, or publish to another "
            f"namespace. {remedy}"
        )
    if status == 403:
        return (
            f"The token may not write to {repo}: {message}. Use one with that right "
            f"({tokens_page()}) or a namespace of your own. {remedy}"
        )
    if status == 429 or status >= 500:
        return f"The Hub cannot serve {repo} now ({status}: {message}). Try later. {remedy}"
    return f"The Hub refuses {repo} ({status}): {message}."


def _not_found(repo: str, message: str) -> str:
    return (
        f"there is no {repo} on the Hub, or it is private. Check the name, user/name, or log in "
        f"with `hf auth login` as someone who may read it. The Hub says: {message}."
    )


def _root(error: BaseException) -> BaseException:
    """Find the client's error behind the RuntimeError of an upload thread."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def short_reason(error: BaseException) -> str:
    """Give an error's text on one line, cut where it is long, or else its type."""
    return " ".join(str(error).split())[:600].rstrip(".") or type(error).__name__
