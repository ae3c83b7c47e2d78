"""Loading by `from_pretrained`, whose many errors become one message with the way out."""

from contextlib import contextmanager

from ..errors import UsageError


@contextmanager
def loading(what: str, remedy: str):
    """Turn the errors of `from_pretrained` into one, on one line; `remedy` is a sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise UsageError(f"Cannot load {what}. {remedy} The reason given: {reason}") from error
