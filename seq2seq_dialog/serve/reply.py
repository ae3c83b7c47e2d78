"""Replies to all contexts of a source, each written with what else its record holds.

Contexts are answered and written in chunks. Those of a chunk are answered in batches of like
lengths and written in the order of the file. What was written before a kill is kept, by chunks; a
file beside the replies tells what they are made of: the input, the model and the settings.
"""

import csv
import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from ..errors import Stopped, UsageError
from ..hub_errors import short_reason
from ..models.loading import hash_weights
from ..portable.context import as_turns
from ..portable.options import checked_options
from ..run_folder import check_writable, read_json, write_json
from ..strict_yaml import load_mapping
from .contexts import read_contexts
from .exported_model import ExportedModel
from .inference import TOKENS_PER_BATCH, engine, generate_responses, load
from .safety import safety_of

CHUNK = 1000  # contexts; so many at most are answered again after a kill
ABOUT = ".about.json"  # the end of the name of the file beside the replies


def reply(
    folder: str,
    input: str | None = None,
    output: str | None = None,
    seed: int = 42,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    exported: bool = True,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options,
) -> None:
    """Write a reply to each context of a source, as JSON Lines or CSV.

    Args:
        folder: the model, as `load` takes it, and `exported`, `device`, `trust_remote_code`.
        input: what `read_contexts` takes; standard input by default, or where it is "-".
        output: a .jsonl file, or a .csv file for the rows of a table; JSON Lines on standard output
            by default. If it is there already, from the same input, model and settings, it is
            completed.
        seed: of sampling; each chunk has one of its own.
        tokens_per_batch: as for `generate_responses`.
        options: those of the filter (`safety_of`), and of `generate()`; None is the model's own
            setting.
    """
    disable_progress_bar()
    safety = safety_of(options)
    options = decoding_options(options)
    if output is not None:
        check_writable(Path(output), [".jsonl", ".csv"])
    with input_file(input) as path:
        count, input_hash, columns = check_entries(path, is_csv(output))
        model, tokenizer, _ = load(folder, device, trust_remote_code, exported)
        settings = decoding_settings(model, options, seed)
        if safety is not None:
            settings["safety"] = safety.description
        answer = {"model": model, "tokenizer": tokenizer, "tokens_per_batch": tokens_per_batch}
        answer["safety"] = safety
        check_answer(answer | options)
        done = 0
        if output is not None:
            about = {"input": input_hash, "model": model_hash(model, tokenizer)}
            done = begin(Path(output), about | {"settings": settings}, count)
        write = partial(csv_row, columns) if is_csv(output) else json_line
        if is_csv(output) and not done:
            Path(output).write_text(csv_line(columns), encoding="utf-8", newline="\n")
        write_replies(path, output, done, count, seed, answer | options, write)
    if output is not None:
        print(f"{count:,} contexts are answered in {output}.")


def decoding_options(options: dict) -> dict:
    """Return options of `generate()` as the command line gives them, without those not given."""
    try:
        if options.get("rerank") is not None:
            example = "{likelihood: 1, context_free: 0.5}"
            options = options | {"rerank": load_mapping("rerank", options["rerank"], example)}
        return checked_options({k: v for k, v in options.items() if v is not None})
    except ValueError as error:
        raise UsageError(str(error)) from error


def write_replies(
    path: Path,
    output: str | None,
    done: int,
    count: int,
    seed: int,
    options: dict,
    write: Callable[[dict], str],
) -> None:
    """Answer the contexts of a source from number `done` on, chunk by chunk.

    `options` are those of `generate_responses`; `write` makes text of an answered record.
    """
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8")
        opened = nullcontext(sys.stdout)
    else:
        opened = open(output, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
    entries = islice(read_contexts(path), done, None)
    with opened as file, tqdm(total=count, initial=done, unit=" contexts") as bar:
        try:
            for start in range(done, count, CHUNK):
                chunk = list(islice(entries, CHUNK))
                torch.manual_seed(seed + start)
                contexts = [entry.context for entry in chunk]
                replies = generate_responses(contexts, progress=bar.update, **options)
                answered = map(with_reply, (entry.record for entry in chunk), replies)
                file.write("".join(map(write, answered)))
                file.flush()
                if getattr(file, "reader_is_gone", False):
                    break
        except KeyboardInterrupt:
            way_out = "The same command goes on where it was." if output is not None else ""
            raise Stopped(way_out) from None


@contextmanager
def input_file(input: str | None) -> Iterator[Path]:
    """Give the path to read; what comes by standard input is kept in one as long as it is read."""
    if input not in (None, "-"):
        if not Path(input).exists():
            raise UsageError(
                f"There is no file {input!r}. Give a file of contexts, or none for standard input."
            )
        yield Path(input)
        return
    if sys.stdin.isatty():
        print("Type contexts, one a line; Ctrl-D ends them.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="contexts-") as folder:
        path = Path(folder) / "standard input"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def check_entries(path: Path, as_table: bool) -> tuple[int, str, list[str]]:
    """Read all contexts, tell as what, and refuse one that cannot be answered.

    Returns:
        Their number, the hash of their records, and the columns of a table with the replies.
    """
    digest, forms, columns = hashlib.blake2b(digest_size=8), Counter(), {}
    for place, record, context, form in read_contexts(path):
        try:
            as_turns(context)
            digest.update(json_line({"record": record, "context": context}).encode())
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{place} has half of a character (an escaped surrogate without its other half), "
                "but it has to be text. Write the whole character, or leave it out."
            ) from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{place}: {error} Mend it, or leave it out.") from error
        if "responses" in record or {"response", "reference"} <= record.keys():
            raise UsageError(
                f"{place} has a column that is to be written: replies go to 'response' or "
                "'responses', a 'response' that is there to 'reference'. Rename the column."
            )
        if as_table and any(isinstance(value, list | dict) for value in record.values()):
            raise UsageError(
                f"{place} has lists, which a row of CSV does not hold: let --output end in .jsonl."
            )
        columns |= dict.fromkeys(with_reply(record, ""))
        forms[form] += 1
    if not forms:
        raise UsageError(
            f"{path} holds no context. Give a file with one a line, or dialogues as --data of a "
            "run takes them."
        )
    summary = ", ".join(f"{count:,} as {form}" for form, count in forms.items())
    print(f"Contexts read: {summary}", file=sys.stderr)
    return forms.total(), digest.hexdigest(), list(columns)


def is_csv(output: str | None) -> bool:
    """Tell whether replies are written as CSV."""
    return output is not None and output.endswith(".csv")


def json_line(record: dict) -> str:
    """Write a record as a line of JSON Lines; times and the like, of Parquet, as text."""
    return json.dumps(record, ensure_ascii=False, default=str) + "\n"


def csv_line(cells: Iterable) -> str:
    """Write cells as a row of CSV."""
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(cells)
    return row.getvalue()


def csv_row(columns: Sequence[str], record: dict) -> str:
    """Write a record as a row of CSV; of several replies, the list of them as JSON."""
    if "responses" in record:
        record = record | {"response": json.dumps(record["responses"], ensure_ascii=False)}
    return csv_line(record.get(name) for name in columns)


def with_reply(record: dict, reply: str | list[str]) -> dict:
    """Put the reply into a record, or several; a `response` that it has becomes `reference`."""
    record = {"reference" if k == "response" else k: v for k, v in record.items()}
    return record | {"response" if isinstance(reply, str) else "responses": reply}


def decoding_settings(model, options: dict, seed: int) -> dict:
    """Return what replies depend on besides model and contexts; an export may not sample."""
    saved = model.generation_config.to_diff_dict()
    saved = {name: value for name, value in saved.items() if not name.endswith("_version")}
    settings = saved | options | {"engine": engine(model)}
    if settings.get("do_sample"):
        if isinstance(model, ExportedModel):
            raise UsageError(
                "An export samples by the seed of its process alone, so a file could not be "
                "completed as it was begun. Set --no-export, or --no-do_sample."
            )
        settings["seed"] = seed
    return settings


def check_answer(options: dict) -> None:
    """Refuse options of `generate_responses` that do not go together."""
    try:
        generate_responses(["Hello"], **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The model does not reply so: {short_reason(error)}") from error


def model_hash(model, tokenizer) -> str:
    """Hash the weights of a model, its vocabulary and how much it reads."""
    about = [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length]
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=8)
    if isinstance(model, ExportedModel):
        digest.update(model.about["weights"].encode())
        return digest.hexdigest()
    hash_weights(model, digest)
    return digest.hexdigest()


def begin(output: Path, about: dict, count: int) -> int:
    """Begin the file of replies, or find out how many of them are there.

    An unfinished chunk is cut off.

    Args:
        about: `input`, `model` and `settings` of the replies.
        count: of all contexts.

    Raises:
        UsageError: the file was begun otherwise.
    """
    about = json.loads(json.dumps(about, default=str))  # as it is read again
    path = output.with_suffix(ABOUT)
    if not output.exists() or not output.stat().st_size:
        write_json(path, about)
        return 0
    try:
        earlier = read_json(path)
        changed = differences(earlier, about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(output)!r} is there already, but {path.name}, which tells how it was begun, is "
            "missing or damaged. Choose another --output, or move it away."
        ) from error
    if changed:
        raise UsageError(
            f"{str(output)!r} is there already, of {', '.join(changed)}. Choose another --output, "
            "move it away, or give what it was begun with."
        )
    return keep_chunks(output, count)


def differences(earlier: dict, about: dict) -> list[str]:
    """Say in words what earlier replies were made of, where it is not the same."""
    changed = [f"another {name}" for name in ("input", "model") if earlier[name] != about[name]]
    before, now = earlier["settings"], about["settings"]
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            changed.append(f"{name} {before.get(name)} (now {now.get(name)})")
    return changed


def keep_chunks(output: Path, count: int) -> int:
    """Cut a file of replies after its last whole chunk; return how many it keeps of `count`."""
    kept = end = 0
    with open(output, "r+b") as file:
        for number, size in enumerate(_ends(file, output.suffix == ".csv"), 1):
            if number % CHUNK == 0 or number == count:
                kept, end = number, size
        if kept < count:
            file.truncate(end)
    return kept


def _ends(file: BinaryIO, is_table: bool) -> Iterator[int]:
    """Yield where each whole record of a file of replies ends; a table begins with its names."""
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in file:
            size += len(line)
            if line.endswith(b"\n"):
                yield line.decode(errors="replace")

    if not is_table:
        yield from (size for _ in lines())
        return
    rows = csv.reader(lines())
    names = next(rows, [])
    yield from (size for row in rows if len(row) == len(names))
