"""What a person can mend: one message, exit status 2."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UsageError(ValueError):
    """Something the person gave cannot be used; entry points print it and exit with status 2."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C while threads of a library work, which do not stop; says what becomes of the work."""


def run(main: Callable[[], None]) -> None:
    """Run an entry point; what the person can mend ends in one message and status 2."""
    try:
        main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        import torch  # only here: --help must not wait for it

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).split(". ")[0]
        print(
            f"error: {reason}. Lower tokens_per_batch (and raise gradient_accumulation_steps by as "
            "much) or eval_tokens_per_batch, or set activation_checkpointing.",
            file=sys.stderr,
        )
        sys.exit(2)
    except Stopped as reason:
        print(f"\nStopped. {reason}", file=sys.stderr, flush=True)
        os._exit(130)  # the interpreter would wait for those threads
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""
