"""The verb `audit`: what appears in more than one split, printed and written to a file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Column, Table

from ..data.overlap import CONTEXTS, DEFINITIONS, KINDS, SPLITS, audit, warning
from ..data.rows import load_rows
from ..run_folder import check_result, write_json
from ..settings import DataArguments
from .console import plain_console


def audit_data(
    data: str | None, output: str | Path = "audit.json", detokenize: bool | None = None
) -> dict:
    """Look for overlap between the splits of a source; print the counts, write them to `output`.

    The file has the counts of `audit`, what they mean, which rows of validation and test are
    clean (`dialogue_id:turn`), and which training dialogues `without_overlap` leaves out.
    `detokenize`, as in training, changes the exact counts and those of words.
    """
    output = Path(output)
    check_result(output, "audit", {"definitions", "splits", "clean"})
    console = plain_console()
    args = DataArguments(data=data, detokenize=detokenize)
    rows, _ = load_rows(args)
    with console.status("Comparing the splits ..."):
        audit_result = audit(rows)
    content = {"data": data, "detokenize": args.detokenize, "definitions": DEFINITIONS}
    content |= {name: part for name, part in audit_result.items() if name not in ("clean", "keep")}
    content["clean"] = {
        name: [f"{dialogue_id}:{turn}" for dialogue_id, turn in _ids(rows[name], mask)]
        for name, mask in audit_result["clean"].items()
    }
    dropped = _ids(rows["train"], ~audit_result["keep"])
    content["drop"] = [dialogue_id for dialogue_id, turn in dropped if turn == 1]
    write_json(output, content)
    print_audit(audit_result, console)
    message = warning(audit_result)
    if message:
        console.print(message, style="yellow", soft_wrap=True)
    print(f"Written to {output}: the counts, what they mean, clean pairs, dialogues to drop.")
    return audit_result


def _ids(rows: Dataset, chosen: np.ndarray) -> Iterator[tuple[str, int]]:
    """Yield `dialogue_id` and `turn` of the rows that a bool array (rows,) chooses."""
    columns = rows.select(np.flatnonzero(chosen)).select_columns(["dialogue_id", "turn"])
    for table in columns.with_format("arrow").iter(10_000):
        yield from zip(table["dialogue_id"].to_pylist(), table["turn"].to_pylist(), strict=True)


def print_audit(audit_result: dict, console: Console) -> None:
    """Print what `audit` returns: a table with a column a split, and what remains of train."""
    heads = [Column(name, justify="right") for name in audit_result["splits"]]
    table = Table("", *heads, title="Overlap", title_justify="left")
    columns = [dict(_cells(counts)) for counts in audit_result["splits"].values()]
    for label in columns[0]:
        cells = [column[label] for column in columns]
        if any(cells):
            table.add_row(label, *cells)
    console.print(table)
    for name, label in (
        ("train_without_copies", "without copies and without what stands in validation or test"),
        ("train_without_overlap", "without what overlaps with them, either"),
    ):
        remaining = audit_result[name]
        text = f"{remaining['dialogues']:,} dialogues, {remaining['pairs']:,} pairs."
        console.print(f"Train {label}: {text}", soft_wrap=True)


def _cells(counts: dict) -> Iterator[tuple[str, str]]:
    """Yield the label and the cell of each line of the table; cells that do not apply are empty."""

    def cell(count: int | None, whole: str) -> str:
        share = 100 * (count or 0) / max(1, counts[whole])
        return "" if count is None else f"{count:,} ({share:.1f} %)"

    yield "dialogues", f"{counts['dialogues']:,}"
    for kind in KINDS:
        yield f"  extra copies, {kind}", cell(counts["copies"][kind], "dialogues")
    for other in SPLITS:
        kinds = counts.get("dialogues_in", {}).get(other, {})
        for kind in KINDS:
            yield f"  in {other}, {kind}", cell(kinds.get(kind), "dialogues")
    yield "  overlapping with train", cell(counts.get("overlapping"), "dialogues")
    yield "pairs", f"{counts['pairs']:,}"
    for context in CONTEXTS:
        count = counts.get("pairs_in_train", {}).get(context)
        yield f"  in train with {context.replace('_', ' ')}", cell(count, "pairs")
    yield "  clean", cell(counts.get("clean_pairs"), "pairs")
