"""What went wrong on the Hub, in words, and what to do."""

from __future__ import annotations

import json
from contextlib import contextmanager

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from ..errors import UsageError


def passing(error: BaseException) -> bool:
    """Tell whether an error of the Hub's client may be gone at the next try."""
    error = _root(error)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429) or error.response.status_code >= 500
    return isinstance(error, HTTPError | RuntimeError | json.JSONDecodeError)


@contextmanager
def told(repo: str):
    """Turn the errors of the Hub's client into a UsageError that says what to do.

    Args:
        repo: what the work is about.
    """
    try:
        yield
    except UsageError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(explain(_root(error), repo)) from error


def explain(error: BaseException, repo: str) -> str:
    """Word an error of the Hub's client: what is wrong, and the next step."""
    again = "Nothing is lost: the same command continues."
    tokens = "https://huggingface.co/settings/tokens"
    if isinstance(error, HFValidationError):
        return f"{repo!r} cannot be the name of a repository. {error} Write user/name."
    if isinstance(error, LocalTokenNotFoundError):
        return f"Not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN; tokens: {tokens}."
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {repo} was not looked for: unset it. {again}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = (error.server_message or _short(error)).rstrip(".") + "."
        if status == 401 and get_token():
            return f"The Hub does not know this token. Make a new one at {tokens}. {again}"
        if status == 401 or (status == 404 and not isinstance(error, EntryNotFoundError)):
            return (
                f"{repo} is not on the Hub, or private: log in with `hf auth login` as someone who "
                f"may read it, and check the name. The Hub says: {said}"
            )
        if status == 402:
            return (
                f"The Hub wants to be paid for {repo}: {said} A Space may be free on ZeroGPU: make "
                f"it at https://huggingface.co/new-space, then the same command fills it. {again}"
            )
        if status == 413 or "storage limit" in said.lower() or "quota" in said.lower():
            return (
                f"The Hub has no room for {repo}: {said} Free some, or publish to another "
                f"namespace. {again}"
            )
        if status == 403:
            return (
                f"The token may not write to {repo}: {said} Use one with that right ({tokens}) or "
                f"a namespace of your own. {again}"
            )
        if status == 429 or status >= 500:
            return f"The Hub cannot serve {repo} now ({status}: {said}). Try later. {again}"
        return f"The Hub refuses {repo} ({status}): {said}"
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"No connection to {HfApi().endpoint} ({_short(error)}). {again}"
    if isinstance(error, UnicodeEncodeError):
        return f"The token holds {error.object[error.start]!r}, which no token has: set it anew."
    if isinstance(error, ValueError):
        return f"{repo} cannot be published: {_short(error)}."
    return f"{repo} could not be published: {_short(error)}. {again}"


def _root(error: BaseException) -> BaseException:
    """Find the client's error behind the RuntimeError of an upload thread."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:600].rstrip(".") or type(error).__name__
