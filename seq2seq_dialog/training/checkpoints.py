"""Checkpoints that cannot lie: one counts only if its files are those that its manifest lists.

The manifest of a folder holds the size and the checksum of each file in it, and is written last:
what a kill left half written has none, and what was damaged later does not agree with it.
"""

import logging
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash
from transformers.trainer_callback import TrainerState

from ..run_folder import PART, PREVIEW, TALKS, VOTES, read_json, write_json

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# What a finished run has at its root besides the model: made again from it where it is damaged.
RESULTS = ("metrics.json", "predictions.jsonl", "evaluation.json", TALKS)


def write_manifest(folder: Path, files: Iterable[Path]) -> None:
    """List files of a folder in its manifest, by their paths in it."""
    content = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "xxh3_128": _hash(path)}
        for path in sorted(files)
        if path != folder / MANIFEST
    }
    write_json(folder / MANIFEST, content)


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()  # against damage, not against malice: many times as fast as SHA
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def flaws(folder: Path, needed: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Compare a folder with its manifest: each file that disagrees, and how; none where all agree.

    Without a manifest, that is what is wrong. It must list the files that are `needed`.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        expected = {name: (each["bytes"], each["xxh3_128"]) for name, each in manifest.items()}
    except FileNotFoundError:
        yield MANIFEST, "is missing, so it was not written to its end"
        return
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        yield MANIFEST, "is damaged"
        return
    for name in set(needed) - expected.keys():
        yield name, "was not written to its end"
    for name, (size, checksum) in expected.items():
        try:
            actual = (folder / name).stat().st_size
            if actual != size:
                yield name, f"has {actual:,} bytes instead of {size:,}"
            elif _hash(folder / name) != checksum:
                yield name, "was changed (its checksum differs)"
        except OSError as error:
            yield name, "is missing" if isinstance(error, FileNotFoundError) else str(error)


def flaw(folder: Path, needed: Iterable[str] = (), ignored: Iterable[str] = ()) -> str | None:
    """Say in words what is first found wrong with a folder; None where it is whole."""
    relevant = (pair for pair in flaws(folder, needed) if pair[0] not in ignored)
    return next((" ".join(pair) for pair in relevant), None)


def seal_run(run_dir: Path, without: Iterable[str] = ()) -> None:
    """Declare what stands at the root of a run folder written: the model, at the end the results.

    What is written anew later is left out: settings by a continued run, pages, votes, and what
    `without` names.
    """
    rewritten = (*without, "config.yaml", "environment.json", PREVIEW, "report.html", VOTES)
    parts = (path for path in run_dir.iterdir() if path.is_file() and path.name[0] != ".")
    files = (path for path in parts if not path.name.endswith(PART))
    write_manifest(run_dir, (path for path in files if path.name not in rewritten))


def checkpoints(run_dir: Path) -> list[Path]:
    """List the checkpoints of a run, whole or not, the newest first."""
    folders = run_dir.glob("checkpoint-*")
    found = (path for path in folders if path.name[11:].isdecimal() and path.is_dir())
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint, `checkpoint-<step>`, is of."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def last_checkpoint(run_dir: str | Path, before: float = math.inf) -> Path | None:
    """Find the newest checkpoint that is whole, of a step before `before`.

    Each damaged one that is passed over is named.
    """
    for folder in checkpoints(Path(run_dir)):
        if step_of(folder) >= before:
            continue
        wrong = flaw(folder)
        if wrong is None:
            return folder
        logger.warning("%s is passed over: %s.", folder, wrong)
    return None


def best_checkpoint(run_dir: str | Path, step: int | None) -> Path | None:
    """Find the checkpoint of the best step, wherever the run folder was then; None if not whole."""
    folder = Path(run_dir) / f"checkpoint-{step}"
    if step is None or not folder.exists():
        return None
    wrong = flaw(folder)
    if wrong is not None:
        logger.warning("%s, the best so far, is passed over: %s.", folder, wrong)
    return folder if wrong is None else None


def seal(folder: Path) -> None:
    """Declare a checkpoint written: list all its files in its manifest."""
    write_manifest(folder, (path for path in folder.rglob("*") if path.is_file()))


def remove(folder: Path) -> None:
    """Remove a checkpoint, of which nothing counts from the first moment on."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_old(run_dir: Path, limit: int | None, state: TrainerState, passed: int = 0) -> None:
    """Keep the `limit` newest checkpoints, among them the best and the newest up to step `passed`.

    Half-written ones go, and those of later steps: the training began anew before them, since they
    are damaged.
    """
    sealed = []
    for folder in checkpoints(run_dir):
        if (folder / MANIFEST).exists() and step_of(folder) <= state.global_step:
            sealed.append(folder)
        else:
            remove(folder)
    if limit is None or limit < 1 or not sealed:
        return
    best = run_dir / f"checkpoint-{state.best_global_step}"
    up_to_passed = [folder for folder in sealed if step_of(folder) <= passed]
    kept = {sealed[0], best, *up_to_passed[:1]} & set(sealed)
    for folder in sealed[1:]:
        if len(kept) < limit:
            kept.add(folder)
        elif folder not in kept:
            remove(folder)
