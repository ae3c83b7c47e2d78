"""Files of tables to rows: CSV, TSV, JSON, JSON Lines, Parquet, Arrow streams."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...dataset_script.dialogues import SPLITS, Dialogue, Note
from ...dataset_script.sources import SPLIT_NAMES
from ...errors import UsageError
from ..files import File, parse_json
from ..roles import ROLES
from ..transcripts import Reader, Transcript
from .named_turns import are_names, may_be_names
from .table_forms import SAMPLE, choose_form, find_columns, have_speakers, may_hold_dialogues
from .times import CLOCK, parse_time
from .utterance_rows import Rows, read_utterances

SEVERAL = {"dialogs", "dialogues", "conversations", "chats"}  # what lists of dialogues are called
DELIMITERS = ",\t;|"
SEPARATOR = re.compile(r'"?sep=([^\r\n])"?(?=[\r\n]|$)', re.IGNORECASE)  # Excel's first line
Choice = Callable[[list[dict]], Any]  # of rows, the first ones: what to do with all, or None


def reader(columns: dict[str, str]) -> Reader:
    """The reader of tables; `columns` has names that cannot be guessed, by what they are for."""
    choose = partial(choose_form, columns=columns)
    return Reader(
        "table", lambda file: open_table(file, choose) is not None, partial(read, choose=choose)
    )


def read(file: File, note: Note, choose: Choice) -> Iterator[Transcript | Dialogue]:
    """Read a file that `reader` recognises."""
    rows, form = open_table(file, choose)
    rows = iter(rows)
    first = list(islice(rows, SAMPLE))
    rows = chain(first, rows)
    if _are_in_doubt([row for _, row in first]):
        rows = _noted(rows, note)
    yield from form(rows, note)


def _noted(rows: Rows, note: Note) -> Rows:
    """Note the rows of two texts: how they were read is told."""
    for number, row in rows:
        note("two_texts", number)
        yield number, row


def open_table(file: File, choose: Choice) -> tuple[Rows, Any] | None:
    """The rows of a file and what `choose` says of the first; None where it says nothing."""
    delimited = partial(_delimited_rows, choose=choose)
    json_rows = partial(_json_rows, choose=choose)
    for open_rows in (json_rows, _json_lines, _columnar_rows, delimited):
        if (rows := open_rows(file)) is not None:
            chosen = choose([row for _, row in islice(rows, SAMPLE)])
            return None if chosen is None else (open_rows(file), chosen)
    return None


def columns_of(file: File) -> list[str]:
    """The columns of a file that is a table of any kind; none where it is no table."""
    json_rows = partial(_json_rows, choose=lambda sample: None)
    for open_rows in (json_rows, _json_lines, _columnar_rows):
        if (rows := open_rows(file)) is not None:
            return list(dict.fromkeys(name for _, row in islice(rows, SAMPLE) for name in row))
    lines, delimiters = _lines_and_delimiters(file)
    lines = [] if "\0" in file.head else lines[:2]
    for delimiter in delimiters:
        cells = [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
        if len(cells) == 2 and len(cells[0]) == len(cells[1]) > 1:
            return cells[0]
    return []


def has_names_alone(file: File) -> bool:
    """Whether a file is the first line of a table, of which the form is known, and no more."""
    lines, delimiters = _lines_and_delimiters(file)
    if len(lines) != 1:
        return False
    samples = (next(csv.reader(lines, delimiter=each), []) for each in delimiters)
    return any(choose_form([dict.fromkeys(names, "")], {}) is not None for names in samples)


def _json_rows(file: File, choose: Choice) -> Rows | None:
    """The rows of one JSON document: a list of rows or of dialogues, or an object around it."""
    if PurePosixPath(file.name).name == "dataset_dict.json":
        return None  # of `datasets`: names of splits, which would pass for a dialogue
    content = file.document
    if isinstance(content, dict):
        content = _rows_by_column(content, choose) or _entries_of(file, content)
    if not isinstance(content, list) or not content:
        return None
    if all(isinstance(each, str) for each in content):
        content = [content]  # the utterances of one dialogue
    make_row = row_maker(content, str(file))
    rows = [make_row(each) if isinstance(each, list) else each for each in content]
    return list(enumerate(rows, 1)) if all(isinstance(row, dict) for row in rows) else None


def _rows_by_column(content: dict, choose: Choice) -> list[dict] | None:
    """The rows of an object with the cells of each column, as pandas writes tables; else None.

    It is `orient="split"`, `"tight"`, `"columns"`, or a list a column.
    """
    names, cells = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(cells, list) and cells:
        if all(isinstance(row, list) and len(row) == len(names) for row in cells):
            return [dict(zip(map(str, names), row, strict=True)) for row in cells]
        return None
    columns = list(content.values())
    if not columns or not columns[0]:
        return None
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        is_numbered = list(columns[0]) == [str(number) for number in range(len(columns[0]))]
        columns = [list(column.values()) for column in columns]
    elif len(columns) > 1 and all(
        isinstance(column, list) and len(column) == len(columns[0]) for column in columns
    ):
        is_numbered = False
    else:
        return None
    rows = [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]
    return rows if is_numbered or choose(rows[:SAMPLE]) is not None else None


def _entries_of(file: File, content: dict) -> list | dict | None:
    """The rows or dialogues that an object has, or the object as the only one."""
    lists = {name: each for name, each in content.items() if isinstance(each, list)}
    if _has_splits(file, lists):
        return None
    whole = [name for name in lists if may_hold_dialogues(name)]
    if whole and not _holds_rows(whole[0], lists[whole[0]]):
        return [content]  # one dialogue
    if _is_pair(content, lists):
        return [content]
    if len(lists) == 1:
        (entries,) = lists.values()  # texts beside other fields may be anything
        is_whole = len(content) == 1 or not all(isinstance(each, str) for each in entries)
        return entries if is_whole else None
    if content and all(isinstance(each, dict | list) for each in content.values()):
        return [
            {"conversation_id": name} | (each if isinstance(each, dict) else {"dialog": each})
            for name, each in content.items()
        ]
    return None


def row_maker(entries: list, source: str) -> Callable[[list], dict]:
    """Choose what lists without names are: dialogues, or each a turn with its speaker first."""
    sizes = {len(each) if isinstance(each, list) else 0 for each in entries}
    size = sizes.pop() if len(sizes) == 1 else 0
    columns = list(zip(*entries, strict=True)) if size > 1 else []
    for place, column in enumerate(columns[:-1]):
        if not all(isinstance(cell, str | int) for cell in column):
            continue
        cells = [str(cell).strip() for cell in column]
        are_roles = len(set(cells)) > 1 and all(cell.casefold() in ROLES for cell in cells)
        if not (are_roles or are_names(cells)):
            continue
        if size == 2:
            return lambda cells: dict(zip(("speaker", "text"), cells, strict=False))
        raise UsageError(
            f"{source}: of lists of {size} cells, cell {place + 1} seems to say who speaks, such "
            f"as {cells[0]!r}, but nothing names the cells. Make each list an object with names: "
            '{"speaker": "Ann", "text": "Hi"}, with conversation_id or time if there is one.'
        )
    return lambda texts: {"dialog": texts}


def _are_in_doubt(rows: list[dict]) -> bool:
    """Whether rows have two texts alone, of which the first may name who speaks."""
    texts = [row.get("dialog") if row.keys() == {"dialog"} else None for row in rows]
    are_two = [isinstance(each, list) and len(each) == 2 for each in texts]
    return all(are_two) and may_be_names([str(first) for first, _ in texts])


def _has_splits(file: File, lists: dict[str, list]) -> bool:
    """Whether an object has a list for each split, which would become a dialogue each.

    It is refused if these lists hold dialogues or rows. They may hold topics or ids.
    """
    splits = [name for name in lists if SPLIT_NAMES.get(name.lower(), name.lower()) in SPLITS]
    if len(splits) > 1 and any(isinstance(e, dict | list) for name in splits for e in lists[name]):
        raise UsageError(
            f"{file} holds the splits {', '.join(splits)} in one object, but a file has one split. "
            "Save each to a file of its own in one folder, such as "
            f"{', '.join(f'{name}.json' for name in splits)}, and give the folder."
        )
    return len(splits) > 1


def _is_pair(row: dict, lists: Iterable[str]) -> bool:
    """Whether an object is a context with its response, and one of its lists is part of that."""
    column_of = find_columns(row, {})
    return {"context", "response"} <= set(column_of) and any(
        name in column_of.values() for name in lists
    )


def _holds_rows(name: str, entries: list) -> bool:
    """Whether a list holds whole dialogues or pairs, not the messages of one dialogue."""
    first = entries[0] if entries else None
    if isinstance(first, list):
        are_exchanges = name.lower() not in SEVERAL and all(isinstance(e, dict) for e in first)
        return not (are_exchanges or have_speakers(entries))
    if not isinstance(first, dict):
        return False
    form = choose_form([first], {})
    return form is not None and form.func is not read_utterances


def _json_lines(file: File) -> Rows | None:
    first, end, _ = file.head.lstrip().partition("\n")
    if not first.startswith(("{", "[")):
        return None
    try:
        if not end:  # longer than what a form is recognised by
            first = next(line for _, line in file.lines() if line.strip())
        begins = json.loads(first)
    except ValueError:
        return None
    if not isinstance(begins, dict | list):
        return None
    first = [entry for _, entry in islice(_parse_lines(file), SAMPLE)]
    make_row = row_maker(first, str(file))
    lines = _parse_lines(file)
    return ((n, make_row(each) if isinstance(each, list) else each) for n, each in lines)


def _parse_lines(file: File) -> Iterator[tuple[int, dict | list]]:
    for number, line in file.lines():
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UsageError(
                f"{file}, line {number} is not JSON ({error}), but each line has to be one "
                "object. Restore the line, or take it out."
            ) from error
        if not isinstance(row, dict | list):
            raise UsageError(
                f"{file}, line {number} is {line[:40]!r}, but each line has to be an object or a "
                "list of utterances. Restore the line, or take it out."
            )
        yield number, row


def _columnar_rows(file: File) -> Rows | None:
    """The rows of Parquet or of Arrow, in which `datasets` saves to disk."""
    if file.head.startswith("PAR1"):
        return _parse_columnar(
            file, "Parquet", lambda data: pq.ParquetFile(data).iter_batches(1000)
        )
    if file.start.startswith(b"\xff" * 4):  # as streams of Arrow do, and no text
        return _parse_columnar(file, "Arrow", pa.ipc.open_stream)
    return None


def _parse_columnar(file: File, name: str, batches_of: Callable[[Any], Iterable]) -> Rows:
    with ExitStack() as stack:
        try:
            number = 0
            for batch in batches_of(file.open(stack)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (OSError, pa.ArrowInvalid) as error:
            raise UsageError(
                f"{file} cannot be read as {name} ({error}). Restore the file."
            ) from error


def _delimited_rows(file: File, choose: Choice) -> Rows | None:
    """The rows of CSV or TSV with a line of names or, of two columns with tabs, without one."""
    lines, delimiters = _lines_and_delimiters(file)
    if not lines or "\0" in file.head:
        return None
    for delimiter in delimiters:
        try:
            names, *rows = islice(csv.reader(lines, delimiter=delimiter), SAMPLE)
        except csv.Error:
            continue
        sample = [dict(zip(names, cells, strict=False)) for cells in rows or [names]]
        if choose(sample) is not None:
            return _parse_delimited(file, delimiter, None)
    is_cut = len(lines) > 1 and not file.head.endswith("\n")
    whole = lines[:-1] if is_cut else lines
    if all(line.count("\t") == 1 and all(map(str.strip, line.split("\t"))) for line in whole):
        names = _names_of_two_columns(file, [line.split("\t")[0].strip() for line in whole])
        return _parse_delimited(file, "\t", names)
    return None


def _lines_and_delimiters(file: File) -> tuple[list[str], str]:
    """The first lines, without Excel's line that names the delimiter, and what may be one."""
    lines = file.head.splitlines()
    named = SEPARATOR.fullmatch(lines[0]) if lines else None
    return (lines[1:], named[1]) if named else (lines, DELIMITERS)


def _names_of_two_columns(file: File, cells: list[str]) -> list[str]:
    """Name two columns by the first cells of their lines: turns by name, or pairs."""
    if all(CLOCK.fullmatch(cell) or parse_time(cell) for cell in cells):
        raise UsageError(
            f"{file} has two columns without names, of which the first has times or numbers, such "
            f"as {cells[0]!r}. Put a line of names above them, such as time<tab>text, and who "
            "speaks into a column called speaker."
        )
    return ["speaker", "text"] if are_names(cells) else ["context", "response"]


def _parse_delimited(file: File, delimiter: str, names: list[str] | None) -> Rows:
    skipped = int(SEPARATOR.match(file.head) is not None)
    is_ended = False

    def lines() -> Iterator[str]:
        nonlocal is_ended
        for _, line in islice(file.lines(), skipped, None):
            yield f"{line}\n"
        is_ended = True

    quoting = csv.QUOTE_MINIMAL if names is None else csv.QUOTE_NONE
    rows = csv.reader(lines(), delimiter=delimiter, quoting=quoting)
    csv.field_size_limit(1 << 24)
    begins = 1
    try:
        for cells in rows:
            if is_ended:  # else it is known only after the last row
                raise UsageError(
                    f"{file}, line {begins + skipped} has a quotation mark that opens a cell, and "
                    "none closes it before the file ends. Mend the quotation marks there or above."
                )
            begins = rows.line_num + 1
            if names is None:
                names = cells
            elif cells:
                if len(cells) > len(names):
                    raise UsageError(
                        f"{file}, line {rows.line_num + skipped} has {len(cells)} cells, but its "
                        f"first line names {len(names)}. Put texts with {delimiter!r} or line ends "
                        "in quotation marks."
                    )
                yield rows.line_num + skipped, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise UsageError(
            f"{file}, line {rows.line_num + skipped}: {error}. Mend the quotation marks there."
        ) from error
