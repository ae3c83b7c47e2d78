"""The files that a run leaves: their names, how they are written and read."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml

from .errors import UsageError
from .portable.context import as_turns

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "sentencepiece")
PACKAGES += ("huggingface_hub", "sacrebleu", "rouge-score", "nltk", "tokenizers")


def environment(world_size: int, training_data: str) -> dict:
    """Describe what a run is made with: versions, device, git revision of the code, data.

    Args:
        world_size: number of processes.
        training_data: the fingerprint of the training rows.
    """
    gpu = torch.cuda.is_available()
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if gpu
        else f"CPU, {torch.get_num_threads()} threads",
        "processes": world_size,
        "training_data": training_data,
        "git_revision": _git_revision(),
        "date": datetime.date.today().isoformat(),
    }


def _git_revision() -> str | None:
    """The commit of this code, `+changes` where files differ from it; None outside a checkout.

    A repository around an installed package is another's: this file is not tracked there.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **run)
        revision = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        return revision + ("+changes" if subprocess.run(status, **run).stdout else "")
    except (OSError, subprocess.SubprocessError):
        return None


def predictions(rows, outputs: list[dict], clean: Iterable[bool] | None) -> list[dict]:
    """Put replies beside the rows they answer.

    Args:
        rows: the evaluated split.
        outputs: `predictions` of `DialogueTrainer.predict`.
        clean: of each row, whether nothing of it stands in train; None if that is not known.
    """
    columns = ("dialogue_id", "turn", "context", "response")
    lines = []
    for row, output in zip(rows.select_columns(columns), outputs, strict=True):
        row["reference"] = row.pop("response")
        lines.append(row | {key: output[key] for key in ("reply", "nll", "tokens")})
    if clean is not None:
        for line, flag in zip(lines, clean, strict=True):
            line["clean"] = bool(flag)
    return lines


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict]:
    """Read an object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_pairs(folder: str | Path, samples: int) -> list[dict]:
    """Read evenly spaced test pairs, `context` and `reference`, of a run's predictions.

    Args:
        folder: a finished run folder.
        samples: how many; all of them where there are fewer.

    Raises:
        UsageError: the run has left no predictions, or fewer than two.
    """
    path = Path(folder) / "predictions.jsonl"
    way_out = (
        "Contexts and references are those of a run: give the folder of one that has been finished "
        "with do_predict."
    )
    if not path.is_file():
        raise UsageError(f"There is no {str(path)!r}. {way_out}")
    try:
        rows = [{key: row[key] for key in ("context", "reference")} for row in read_jsonl(path)]
        for row in rows:
            as_turns(row["context"])
            row["reference"].split()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} holds no predictions ({error}). {way_out}") from error
    count = min(samples, len(rows))
    if count < 2:
        raise UsageError(f"{str(path)!r} has {len(rows)} pairs; 2 are the least. {way_out}")
    return [rows[i * len(rows) // count] for i in range(count)]


def write_json(path: Path, content) -> None:
    """Write JSON so that a reader never sees half of it."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write an object a line."""
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_yaml(path: Path, settings: dict) -> None:
    """Write settings as a config file."""
    _write(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before long work for it; make its folder.

    Raises:
        UsageError: names the folder and the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"Cannot write to {str(path.parent)!r}: {error}.") from error
