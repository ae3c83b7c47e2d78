"""The benchmark of ways of decoding: plain ways, candidates, going on, figures, the picture."""

import shutil

import pytest
from helpers.corpus import SAMPLES

from benchmarks import replies
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.portable.options import CRITERIA
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.serve.inference import generate_responses, load

WAYS = ["greedy", "4 beams", "guidance 0.5, 4 beams"]


@pytest.fixture
def args(saved, tmp_path):
    """`args(*flags)`: the command line of five contexts and three candidates, parsed."""
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:80]
    (tmp_path / "dialogues.txt").write_text("\n".join(lines), encoding="utf-8")

    def args(*flags, models=(), ways=WAYS):
        line = [str(saved), *models, "--data", str(tmp_path / "dialogues.txt"), "--device", "cpu"]
        line += ["--contexts", "5", "--candidates", "3", "--output", str(tmp_path / "out.json")]
        return replies.build_parser().parse_args([*line, "--ways", *ways, *flags])

    return args


def test_ways_and_candidates_are_decoded_scored_and_drawn(args, saved, tmp_path, capsys):
    picture = tmp_path / "ways.png"
    weights = "{likelihood: 1, mbr: 0.5}"
    given = args("--weights", weights, "--picture", str(picture), "--examples", "1")
    replies.compare(given)
    found = read_json(tmp_path / "out.json")
    contexts, responses, _, training = replies.pairs_of(given)
    assert found["responses"] == responses and len(set(map(tuple, contexts))) == 5
    model, tokenizer, device = load(str(saved), "cpu")
    for way in WAYS:
        expected = generate_responses(contexts, model, tokenizer, device, **replies.WAYS[way])
        assert found["ways"][f"run, {way}"] == expected
    assert found["ways"]["run, greedy"] != found["ways"]["run, 4 beams"]
    assert [len(set(row)) > 1 for row in found["pool"]] == [True] * 5
    assert found["values"].keys() == CRITERIA.keys() - {"reverse", "reverse_sum"}
    assert all([*map(len, rows)] == [3] * 5 for rows in found["values"].values())
    assert set(found["other_contexts"]) <= set(training)
    for words, row in zip(found["values"]["length"], found["pool"], strict=True):
        assert words == [len(text.split()) for text in row]
    of_pool = ["likelihood 1, mbr 0.5", "a random candidate", "the best BLEU-2, by the references"]
    assert [*found["figures"]] == [*(f"run, {way}" for way in WAYS), *of_pool]
    assert found["figures"]["run, greedy"]["time"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"a person: {responses[0]}\n" in capsys.readouterr().out


def test_the_same_command_goes_on_where_it_was(args, saved, tmp_path, monkeypatch):
    loaded, pool_of = [], replies.pool_of

    def load_noted(name, device):
        loaded.append(name)
        return load(name, device)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(replies, "load", load_noted)
    monkeypatch.setattr(replies, "pool_of", stop)
    with pytest.raises(KeyboardInterrupt):
        replies.compare(args(ways=["greedy"]))
    kept = read_json(tmp_path / "out.json")
    monkeypatch.setattr(replies, "pool_of", pool_of)
    replies.compare(args(ways=["greedy"]))
    whole = read_json(tmp_path / "out.json")
    assert whole["ways"] == kept["ways"] and kept["seconds"].items() <= whole["seconds"].items()

    loaded.clear()
    replies.compare(args("--grid", "{length: [0, 1], mbr: [2]}", ways=["greedy"]))
    again = read_json(tmp_path / "out.json")
    assert not loaded and again["pool"] == whole["pool"] and again["seconds"] == whole["seconds"]
    tried = {"likelihood 1, mbr 2", "likelihood 1, length 1, mbr 2"}
    assert tried == {name for name in again["figures"] if name.startswith("likelihood")}

    other = shutil.copytree(saved, tmp_path / "other")
    replies.compare(args(models=[str(other)], ways=["greedy", "nucleus 0.9"]))
    more = read_json(tmp_path / "out.json")
    assert loaded == [str(saved), str(other)] and more["pool"] == whole["pool"]
    assert whole["seconds"].items() <= more["seconds"].items()
    ways = [f"{name}, {way}" for name in ("run", "other") for way in ("greedy", "nucleus 0.9")]
    assert [*more["ways"]] == ways and more["ways"]["other, greedy"] == whole["ways"]["run, greedy"]
    with pytest.raises(UsageError, match=r"out\.json was made otherwise"):
        replies.compare(args("--temperature", "0.5"))


FOUND = {
    "responses": ["we leave at noon .", "the tea is cold ."],
    "references": [["we leave at noon .", "at noon ."], ["the tea is cold ."]],
    "ways": {"m, greedy": ["i do n't know .", "i do n't know ."]},
    "seconds": {"m, greedy": 2.0, "candidates": 3.0, "likelihood": 1.0, "mbr": 4.0},
    "pool": [["no .", "", "at noon ."], ["the tea is cold .", "yes .", "yes ."]],
    "values": {
        "likelihood": [[-3.0, -1.0, -2.0], [-4.0, -2.0, -2.0]],
        "likelihood_sum": [[-6.0, -1.0, -9.0], [-20.0, -4.0, -4.0]],
        "mbr": [[0.1, 0.9, 0.2], [0.9, 0.5, 0.5]],
    },
}


@pytest.mark.parametrize(
    ("weights", "name", "places", "seconds"),
    [
        ({"likelihood": 1}, "likelihood 1", [2, 1], 4),
        ({"likelihood_sum": 1, "likelihood": 1}, "likelihood_sum 1, likelihood 1", [0, 1], 4),
        ({"likelihood": 1, "mbr": 10}, "likelihood 1, mbr 10", [2, 0], 8),
        ({"likelihood": 0, "mbr": 1}, "mbr 1", [2, 0], 7),
    ],
)
def test_weights_choose_a_candidate_and_cost_their_passes(weights, name, places, seconds):
    chosen = replies.choices(FOUND, [weights])
    assert chosen == {name: (places, seconds), "a random candidate": ([0, 0], 3)}


def test_figures_are_of_the_replies_that_each_way_gives():
    found = dict(FOUND)
    told = replies.report(found, [{"likelihood": 1}], {"no"})
    best = "the best BLEU-2, by the references"
    assert told == {
        "m, greedy": ["i do n't know ."] * 2,
        "likelihood 1": ["at noon .", "yes ."],
        "a random candidate": ["no .", "the tea is cold ."],
        best: ["at noon .", "the tea is cold ."],
    }
    figures = found["figures"]
    assert figures[best]["bleu_2"] == pytest.approx(100)
    assert figures["m, greedy"]["bleu_2"] < figures["likelihood 1"]["bleu_2"] < 99
    assert [row["time"] for row in figures.values()] == [1, 2, 1.5, 1.5]
    assert (
        figures["m, greedy"]["distinct_2"] == 50 and figures["a random candidate"]["copied"] == 50
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "{likelyhood: 1}"], "'likelyhood'; it can weigh likelihood, "),
        (["--grid", "[1]"], "grid is"),
        (["--grid", "{mbr: 1}"], "grid is {mbr: 1}; it has a list of weights for each"),
        (["--output", "out.txt"], r"out\.txt.*must end in \.json"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_data_work(args, monkeypatch, flags, message):
    monkeypatch.delattr(replies, "read_corpus")
    with pytest.raises(UsageError, match=message):
        replies.compare(args(*flags))
