"""The folder of a run: locked, checked, and its files written and read."""

import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout

from .errors import UsageError
from .portable.context import as_turns
from .strict_yaml import read_yaml

PREVIEW = "data.html"  # what `dry_run` shows, before there is a run
TRIAL_TOKENIZER = "tokenizer~"  # of a dry run, while it lasts
OF_DRY_RUNS = (PREVIEW, TRIAL_TOKENIZER)
PART = ".part"  # ends the name of a file while it is written; a kill may leave it
TALKS = "selfchat.jsonl"  # the model with itself
VOTES = "votes.jsonl"
PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "sentencepiece",
    "huggingface_hub",
    "sacrebleu",
    "rouge-score",
    "nltk",
    "tokenizers",
)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Take a run folder for this process; the system gives it free when the process dies.

    A folder that nothing was written to is removed again.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(
            f"output_dir is {str(run_dir)!r}, a file; it must be a folder: choose another."
        )
    lock, owner = run_dir / ".lock", run_dir / ".lock-owner"
    check_writable(lock)
    try:
        with FileLock(lock, timeout=0):
            write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
                with suppress(OSError):  # Windows removes no file that is open
                    lock.unlink()
                    run_dir.rmdir()
    except Timeout:
        holder = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise UsageError(
            f"{run_dir} is in use by {holder}. Wait for it, end it, or choose another --output_dir."
        ) from None


def check_folder_of_runs(folder: Path, *patterns: str) -> None:
    """Refuse a folder for several runs that holds what is none of theirs, by patterns of names."""
    for path in sorted(folder.glob("[!.]*")):
        whole = path.with_name(path.name.removesuffix(PART))
        if not any(whole.match(pattern) for pattern in (*patterns, *OF_DRY_RUNS)):
            raise UsageError(
                f"{folder} holds other files, such as {path.name}; choose a new --output_dir."
            )


def environment(world_size: int, training_data: str) -> dict:
    """Describe what a run is made with; `training_data` is the fingerprint of the rows."""
    cpu = f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "processes": world_size,
        "training_data": training_data,
        "git_revision": _git_revision(),
        "date": datetime.date.today().isoformat(),
    }


def _git_revision() -> str | None:
    """The commit of this code, `+changes` where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        # A repository around an installed package is another's: this file is not tracked there.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **run)
        revision = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        return revision + ("+changes" if subprocess.run(status, **run).stdout else "")
    except (OSError, subprocess.SubprocessError):
        return None


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict]:
    """Read an object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_mapping(path: Path) -> dict:
    """Read a JSON object that a run has written; an empty one where there is no such file."""
    try:
        content = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {str(path)!r}: {error}. Copy the run again.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{str(path)!r} is not what a run writes there. Copy the run again.")
    return content


def read_config(folder: str | Path) -> dict:
    """Read the settings of a run; an empty dict where it has left none."""
    config = Path(folder) / "config.yaml"
    return read_yaml(config) if config.is_file() else {}


def read_language(folder: str | Path) -> str:
    """Read from a run's config what its dialogues are written in."""
    return str(read_config(folder).get("language", "en"))


def join_predictions(rows, outputs: list[dict], clean: Iterable[bool] | None) -> list[dict]:
    """Put what `DialogueTrainer.predict` returns beside the rows that it is of.

    `clean` tells which rows are, by `overlap.DEFINITIONS`; None if not known.
    """
    columns = ("dialogue_id", "turn", "context", "response")
    lines = []
    for row, output in zip(rows.select_columns(columns), outputs, strict=True):
        row["reference"] = row.pop("response")
        output = {name: value for name, value in output.items() if name != "reply_cut"}
        lines.append(row | output)
    if clean is not None:
        for line, flag in zip(lines, clean, strict=True):
            line["clean"] = bool(flag)
    return lines


def read_predictions(folder: str | Path) -> list[dict]:
    """Read the predictions of a finished run, a dict a test pair.

    Each has `dialogue_id`, `reference` and `reply`, texts, and `context`, a list of texts; `turn`,
    what `evaluate_examples` says of likelihood and `clean` where the run knew them.
    """
    path = Path(folder) / "predictions.jsonl"
    way_out = "Give the folder of a run that was finished with do_predict."
    if not path.is_file():
        raise UsageError(f"There is no {str(path)!r}. {way_out}")
    try:
        rows = read_jsonl(path)
        for row in rows:
            if not isinstance(row["context"], list):
                raise TypeError("a context is no list")
            " ".join(
                [row["dialogue_id"], row["reference"], row["reply"], *as_turns(row["context"])]
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(path)!r} holds no predictions ({error}). {way_out}") from error
    return rows


def evenly_spaced(items: Sequence, most: int) -> list:
    """Choose at most `most` items, the first among them."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def read_pairs(folder: str | Path, samples: int) -> list[dict]:
    """Read at most `samples` evenly spaced test pairs of a run's predictions."""
    rows = read_predictions(folder)
    if min(samples, len(rows)) < 2:
        raise UsageError(
            f"The predictions of {str(folder)!r} have {len(rows)} pairs; 2 are the least."
        )
    return evenly_spaced(rows, samples)


def write_json(path: Path, content) -> None:
    """Write JSON so that a reader never sees half of it; it has no nan and no infinity."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write an object a line."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def write_yaml(path: Path, settings: dict) -> None:
    """Write settings as a config file."""
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a text so that a reader never sees half of it."""
    part = path.with_name(path.name + PART)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def free_path(path: str | Path) -> Path:
    """Return a path where nothing is: the one that is given, or with a number behind its name."""
    path = Path(path)
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def check_result(path: Path, what: str, keys: set[str]) -> None:
    """Refuse to write figures where there is a file that is no earlier `what`, by its keys."""
    check_writable(path, [".json"])
    if not path.exists():
        return
    try:
        is_earlier = read_json(path).keys() >= keys
    except (OSError, ValueError, AttributeError):
        is_earlier = False
    if not is_earlier:
        raise UsageError(f"{str(path)!r} is no earlier {what}. Choose another output.")


def check_writable(path: Path, endings: Sequence[str] = ()) -> None:
    """Refuse a path that cannot be written, before long work for it; make its folder."""
    if endings and path.suffix not in endings:
        choices = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        raise UsageError(f"output is {str(path)!r}; it must end in {choices}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"Cannot write to {str(path.parent)!r}: {error}.") from error
