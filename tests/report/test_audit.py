"""The verb `audit`: what it prints and writes."""

import re

import numpy as np
import pytest
from datasets import DatasetDict
from helpers.corpus import SAMPLES, rows_of
from rich.console import Console

from seq2seq_dialog.data.overlap import audit
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.audit import audit_data, print_audit
from seq2seq_dialog.run_folder import read_json


@pytest.fixture
def leaky(tmp_path):
    """A folder with splits; a training and a test dialogue are one."""
    dialogues = {
        "train": [["Hi , Ann !", "Hello ."], ["Who is it ?", "It's me ."]],
        "test": [["hi, Ann", "hello", "Bye."], ["Where ?", "Here ."], ["hi ann", "hello"]],
    }
    for name, turns in dialogues.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        text = "".join(" __eou__ ".join(d) + " __eou__\n" for d in turns)
        (tmp_path / "data" / name / f"dialogues_{name}.txt").write_text(text)
    return str(tmp_path / "data")


def test_the_verb_prints_warns_and_writes(leaky, tmp_path, capsys):
    output = tmp_path / "new" / "audit.json"
    audit_result = audit_data(leaky, output=output)
    printed = capsys.readouterr().out
    assert re.search(r"in train, normalised +│ +│ +1 \(33\.3 %\)", printed)
    assert "Warning: 50.0 % of the test pairs (2 of 4," in printed
    assert f"Written to {output}" in printed
    content = read_json(output)
    assert content["splits"] == audit_result["splits"]
    assert content["train_without_overlap"] == {"dialogues": 1, "pairs": 1}
    assert content["clean"] == {"test": ["dialogues_test:1:2", "dialogues_test:2:1"]}
    assert content["drop"] == ["dialogues_train:1"]
    assert content["detokenize"] is True and content["data"] == leaky
    counted = {key for split in content["splits"].values() for key in split}
    counted |= {key for key in content if key.startswith("train_")}
    assert counted - content["definitions"].keys() == {"dialogues", "pairs", "clean_pairs"}


def test_detokenizing_moves_only_what_goes_by_the_text_itself(leaky, tmp_path):
    natural, spaced = (
        audit_data(leaky, output=tmp_path / "audit.json", detokenize=value)
        for value in (True, False)
    )
    np.testing.assert_equal(natural, spaced)
    assert read_json(tmp_path / "audit.json")["detokenize"] is False


def test_a_single_file_is_split_so_that_nothing_stands_on_both_sides(tmp_path, capsys):
    audit_result = audit_data(str(SAMPLES), output=tmp_path / "audit.json")
    assert list(audit_result["splits"]) == ["train", "validation", "test"]
    assert audit_result["keep"].all()
    assert "Warning" not in capsys.readouterr().out
    assert read_json(tmp_path / "audit.json")["drop"] == []


def test_a_wrong_output_or_source_is_one_clear_message(leaky, tmp_path):
    with pytest.raises(UsageError, match=r"output is 'audit\.txt'; it must end in \.json"):
        audit_data(leaky, output="audit.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Cannot write to"):
        audit_data(leaky, output=tmp_path / "file" / "audit.json")
    with pytest.raises(UsageError, match=r"missing\.txt"):
        audit_data(str(tmp_path / "missing.txt"), output=tmp_path / "audit.json")
    assert not (tmp_path / "audit.json").exists()
    (tmp_path / "audit.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"audit.json' is no earlier audit. Choose another"):
        audit_data(leaky, output=tmp_path / "audit.json")
    assert read_json(tmp_path / "audit.json") == {"mine": 1}


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_a_split_may_be_missing(held_out, capsys):
    dialogue = ["Hi.", "Hello."]
    rows = DatasetDict({"train": rows_of([dialogue]), held_out: rows_of([dialogue])})
    print_audit(audit(rows), Console())
    assert "in train, exact" in capsys.readouterr().out
