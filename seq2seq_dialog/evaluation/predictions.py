"""The lines of predictions.jsonl: a test pair and the reply of the model to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from ..portable.context import as_turns
from ..run_folder import PREDICTIONS, read_jsonl


def join_predictions(rows, outputs: list[dict], clean: Iterable[bool] | None) -> list[dict]:
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


def read_pairs(folder: str | Path, samples: int) -> list[dict]:
    """Read evenly spaced test pairs, `context` and `reference`, of a run's predictions.

    Args:
        folder: a finished run folder.
        samples: how many; all of them where there are fewer.

    Raises:
        UsageError: the run has left no predictions, or fewer than two.
    """
    path = Path(folder) / PREDICTIONS
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
