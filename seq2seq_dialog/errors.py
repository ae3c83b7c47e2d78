"""Errors that the user can mend: told in one message, exit status 2."""

import difflib
import errno
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable

DISK_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
FULL_DISK = re.compile(r"No space left|os error 28|PytorchStreamWriter failed|Disk quota exceeded")
WAYS_OUT = (
    "A run writes to output_dir, prepared data to data_cache (else to HF_HOME, by default under "
    "the home folder): make room or give others. The same command goes on."
)


class UsageError(ValueError):
    """Something the person gave cannot be used; entry points print it and exit with status 2."""


class Stopped(KeyboardInterrupt):
    """A person or a signal has stopped long work; says what becomes of it.

    The process ends at once, since threads of a library may not stop.
    """

    def __init__(self, reason: str = "", signal: int = signal.SIGINT):
        super().__init__(reason)
        self.status = 128 + signal


def is_first_process() -> bool:
    """Tell whether this is the first of the processes that train together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class Output(io.TextIOWrapper):
    """Standard output that fails nobody: letters that its encoding lacks are replaced.

    Once its reader has gone (`| head`), which `reader_is_gone` then says, nothing more is written.
    """

    reader_is_gone = False

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        self.reader_is_gone = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def prepare_streams() -> None:
    """Let any bytes come in and any text go out."""
    if type(sys.stdin) is io.TextIOWrapper:
        sys.stdin.reconfigure(errors="replace")
    if type(sys.stdout) is io.TextIOWrapper:
        old = sys.stdout
        buffered = {"line_buffering": old.line_buffering, "write_through": old.write_through}
        sys.stdout = Output(old.buffer, old.encoding, "replace", **buffered)


def run(main: Callable[[], None]) -> None:
    """Run an entry point; what the person can mend ends in one message and status 2."""
    prepare_streams()
    try:
        main()
    except UsageError as error:
        _fail(str(error))
    except Stopped as reason:
        if is_first_process():
            print(f"\nStopped. {reason}", file=sys.stderr, flush=True)
        os._exit(reason.status)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        problem = _memory_problem(error) or _disk_problem(error)
        if problem is None:
            raise
        _fail(problem)


def _fail(message: str) -> None:
    """Print a message and exit with status 2; of several processes that fail alike, one prints."""
    if not is_first_process():
        time.sleep(1)  # where the first one fails as well, this process ends meanwhile
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _memory_problem(error: Exception) -> str | None:
    import torch  # only here: --help must not wait for it

    if not isinstance(error, torch.OutOfMemoryError):
        return None
    reason = str(error).split(". ")[0]
    return (
        f"{reason}. Lower tokens_per_batch (and raise gradient_accumulation_steps by as much) or "
        "eval_tokens_per_batch, or set activation_checkpointing."
    )


def _disk_problem(error: BaseException | None) -> str | None:
    """Say what a disk or a path refuses; None if an error has no such cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            return f"{what}. {WAYS_OUT}"
        if FULL_DISK.search(str(error)):  # of safetensors and torch, which have errors of their own
            return f"{os.strerror(errno.ENOSPC)}. {WAYS_OUT}"
        error = error.__cause__ or error.__context__
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""
