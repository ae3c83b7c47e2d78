"""Loading by `from_pretrained`, whose many errors become one message with the way out."""

from __future__ import annotations

from contextlib import contextmanager

from ..errors import UsageError


@contextmanager
def loading(what: str, remedy: str):
    """Turn the errors of `from_pretrained` into one, on one line.

    Args:
        what: is loaded, with its name.
        remedy: a sentence that says what to do.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise UsageError(f"Cannot load {what}. {remedy} The reason given: {reason}") from error


def load_pretrained(auto_class, what: str, name: str, **options):
    """Load a checkpoint's model or tokenizer to train with.

    Args:
        auto_class: of transformers, with `from_pretrained`.
        what: `tokenizer` or `encoder-decoder checkpoint`.
        name: a folder, or a name on the Hub.
        options: of `from_pretrained`.
    """
    remedy = (
        "Give a folder with a saved model or the name of a public model on the Hub such as "
        "google-t5/t5-small, and check the network (for a private one, log in with `hf auth "
        "login`)."
    )
    with loading(f"the {what} {name!r}", remedy):
        return auto_class.from_pretrained(name, **options)
