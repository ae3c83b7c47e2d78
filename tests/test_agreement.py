"""The benchmark of agreement with people: its arithmetic, and one pass over an invented file."""

import csv

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from benchmarks import agreement, reply_figures
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.run_folder import read_json

SYSTEMS = ("human", "one", "two", "three", "four")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(agreement.spearman, spearmanr), (agreement.kendall, kendalltau)]
)
def test_correlations_of_resamples_are_those_of_the_items_repeated(ours, theirs):
    draw = np.random.default_rng(0)
    x, y = draw.integers(6, size=(2, 30))  # with ties
    weights = np.vstack([np.ones(30), draw.integers(3, size=(4, 30))])
    expected = [
        theirs(*(np.repeat(each, row.astype(int)) for each in (x, y)))[0] for row in weights
    ]
    assert ours(x, y, weights) == pytest.approx(expected)
    assert not ours(np.zeros(30), y, weights).any()


def test_a_reply_gains_what_it_is_likelier_after_its_own_source(model, tokenizer):
    sources, texts = ["How are you?", "Where is it?", "Who?"], ["Fine.", "Over there.", "Ann."]
    own, gain = reply_figures.after_sources(model.eval(), tokenizer, sources, texts, others=1)

    def likelihood(source, text):
        labels = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([encode_context([source], tokenizer)])
        return -model(input_ids=ids, labels=torch.tensor([labels])).loss.item()

    with torch.no_grad():
        expected = [likelihood(*pair) for pair in zip(sources, texts, strict=True)]
        moved = zip(sources[1:] + sources[:1], texts, strict=True)
        others = [likelihood(*pair) for pair in moved]
    assert own == pytest.approx(expected, abs=1e-5)
    assert gain == pytest.approx(np.subtract(expected, others), abs=1e-5)


def test_rated_replies_become_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agreement, "PICTURE", tmp_path / "agreement.png")
    (tmp_path / "multiref").mkdir()
    (tmp_path / "dailydialog" / "train").mkdir(parents=True)
    train = tmp_path / "dailydialog" / "train" / "dialogues_train.txt"
    train.write_text("Hi ! __eou__ I do n't know . __eou__\n", encoding="utf-8")
    rows = [
        {
            "context": f"hello .||||i 'd like {thing} .",
            "model": system,
            "response": f"you ca n't have {thing} ." if quality else "i do n't know .",
            "prevgt": f"here is {thing} .",
            "all_references": "\t".join([f"no {thing} today .", "why ?", "", f"here is {thing} ."]),
            "human_average_rating": str(5 * quality),
        }
        for thing in ("some tea", "a map", "a room")
        for quality, system in enumerate(SYSTEMS)
    ]
    file = tmp_path / "multiref" / "mturk_rating_processed_output.csv"
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    agreement.measure(str(tmp_path), [], samples=20, seed=1, output=str(tmp_path / "out.json"))
    figures = {
        (row["references"], row["figure"]): row
        for row in read_json(tmp_path / "out.json")["figures"]
    }
    rouge = figures["one reference", "ROUGE-L"]
    assert rouge["spearman"][0] > 0.5 and rouge["more"] == [0, 0, 0]
    assert figures["no reference", "no stock phrase"]["spearman"][0] > 0.5
    assert "chrF" in capsys.readouterr().out
    assert (tmp_path / "agreement.png").read_bytes().startswith(b"\x89PNG")


def test_natural_text_has_no_spaces_of_the_tokens():
    assert agreement.natural("i do n't know . it 's 5 , i can not ...") == (
        "I don't know. It's 5, I cannot..."
    )


def test_a_folder_without_ratings_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"See the head of benchmarks/agreement\.py"):
        agreement.read(tmp_path)
