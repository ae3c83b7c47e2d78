"""Damaged files of the data cache: one message, and the way out that it names."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.corpus import sample_dialogues

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.settings import DataArguments, ModelArguments


def a_row_less(content: bytes) -> bytes:
    table = pa.ipc.open_stream(content).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table[:-1])
    return sink.getvalue().to_pybytes()


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "foreign": lambda content: b"Who wrote this?\n" * 9,
    "a row less": a_row_less,
}
INFO, ROWS, IDS = "dataset_info.json", "*-train.arrow", "cache-*.arrow"
CASES = [(file, kind) for file in (INFO, ROWS, IDS) for kind in DAMAGES]
CASES.remove((INFO, "a row less"))


class Source:
    """Thirty dialogues in a file, read by way of a data cache of their own."""

    def __init__(self, path, text, tokenizer):
        path.write_text(text, encoding="utf-8")
        self.cache, self.tokenizer = path.parent / "cache", tokenizer
        self.args = DataArguments(data=str(path), data_cache=str(self.cache))
        self.content = self.read()

    def read(self):
        rows = load_rows(self.args)[0]["train"]
        return rows.to_dict(), encode_rows(rows, self.tokenizer, self.args)["labels"][:]


@pytest.fixture(scope="module", params=["talk.txt", "talk.jsonl"])
def source(request, tokenizer_folder, tmp_path_factory):
    dialogues = sample_dialogues(30)
    lines = [" __eou__ ".join([*turns, ""]) for turns in dialogues]
    if request.param.endswith("jsonl"):
        lines = [json.dumps({"dialog": turns}) for turns in dialogues]
    path = tmp_path_factory.mktemp("source") / request.param
    return Source(path, "\n".join(lines), load_tokenizer(ModelArguments(), 64, tokenizer_folder))


@pytest.mark.parametrize(("file", "kind"), CASES)
def test_damaged_prepared_data_are_named(source, file, kind):
    path = next(source.cache.rglob(file))
    content = path.read_bytes()
    path.unlink()  # what was read is still mapped
    path.write_bytes(DAMAGES[kind](content))
    try:
        with pytest.raises(UsageError, match=r"is damaged: .* prepares the data again") as refused:
            source.read()
    finally:
        path.unlink()
        path.write_bytes(content)
    folder = re.search("Prepared data in '(.*)' is damaged", str(refused.value))[1]
    assert path.is_relative_to(folder) and source.cache != Path(folder)


def test_deleted_prepared_data_are_made_again(source):
    for folder in source.cache.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    assert source.read() == source.content
